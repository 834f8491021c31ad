"""Parts for data that has none of its own."""

from __future__ import annotations

import hashlib

from diekae.data.example import Split


def split_of(key: str) -> Split:
    """The part that a hash of the key falls into: 80 / 10 / 10 % into train, validation and test.

    What shares a key shares a part, whichever other records there are and in whatever order.
    """
    bucket = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % 100
    return "train" if bucket < 80 else "validation" if bucket < 90 else "test"
