"""Divides data that its publisher did not divide."""

import hashlib
from collections.abc import Sequence

from diekae.data.example import DataError, Split
from diekae.data.prompt import Prompt


def split_of(key: str) -> Split:
    """Return the part that a hash of the key selects: 80 / 10 / 10 % train, validation and test.

    Records with the same key are in the same part, whichever other records there are.
    """
    bucket = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % 100
    return "train" if bucket < 80 else "validation" if bucket < 90 else "test"


def halves(prompts: Sequence[Prompt]) -> tuple[list[Prompt], list[Prompt]]:
    """Divide prompts into a half for choosing (layers, checkpoints) and a half for reporting.

    A hash of K decides, so prompts with the same K are in the same half, whatever their order.

    Raises:
        DataError: All prompts are in one half.
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
