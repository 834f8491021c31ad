"""Several sources in one training set."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from diekae.data.example import DataError, Example, check_limit
from diekae.data.sources import check_split, load_source


@dataclass(frozen=True, slots=True)
class DataSpec:
    """Which examples of which source.

    Raises:
        DataError: If the split is unknown or the limit is below 1.
    """

    source: str
    """A registered name, see `diekae.data.source_names`."""
    folder: str | None = None
    """The folder with the upstream files; ``None`` for a source that needs none."""
    split: str = "train"
    """``train``, ``validation`` or ``test``."""
    limit: int | None = None
    """At most this many examples, a seeded random subset; all when ``None``."""

    def __post_init__(self) -> None:
        """Check what can be checked before any file is read."""
        check_split(self.split)
        check_limit(self.limit)


def load_mixture(specs: Sequence[DataSpec], seed: int) -> list[Example]:
    """Load every spec and shuffle all examples together.

    Args:
        specs: At least one.
        seed: Decides the subsets and the order.

    Returns:
        All examples, in an order that depends on `specs` and `seed` alone.

    Raises:
        DataError: If `specs` is empty or a source cannot be loaded.
    """
    if not specs:
        raise DataError("no data set was named; expected at least one DataSpec")
    examples: list[Example] = []
    for spec in specs:
        split = check_split(spec.split)
        examples += load_source(spec.source, folder=spec.folder, split=split, limit=spec.limit, seed=seed)
    random.Random(seed).shuffle(examples)
    return examples
