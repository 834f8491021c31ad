"""Parts for data that has none of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from diekae.data.example import DataError, Split
from diekae.data.prompt import Prompt


def split_of(key: str) -> Split:
    """The part that a hash of the key falls into: 80 / 10 / 10 % into train, validation and test.

    What shares a key shares a part, whichever other records there are and in whatever order.
    """
    bucket = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % 100
    return "train" if bucket < 80 else "validation" if bucket < 90 else "test"


def halves(prompts: Sequence[Prompt]) -> tuple[list[Prompt], list[Prompt]]:
    """Cut prompts into a half to choose by and a half to report, the same whatever their order.

    What shares its knowledge shares its half: a hash of the knowledge decides.

    Raises:
        DataError: All prompts fall into one half.
    """
    parts: tuple[list[Prompt], list[Prompt]] = ([], [])
    for prompt in prompts:
        parts[hashlib.sha256(repr(prompt.knowledge).encode()).digest()[0] & 1].append(prompt)
    if not all(parts):
        raise DataError(
            f"{len(prompts)} examples cannot be cut into a half to choose by and a half to report; expected at least "
            "two with different knowledge in each part"
        )
    return parts
