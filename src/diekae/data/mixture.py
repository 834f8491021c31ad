"""Several sources in one training set."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from diekae.data.example import DataError, check_limit, check_split
from diekae.data.prompt import Prompt, Prompter
from diekae.data.sources import load_source


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
    longest: int | None = None
    """Leave out examples whose knowledge has more tokens than this, before the limit counts."""
    format: str | None = None
    """Text around x and y, ``plain``, ``qa`` or ``chat``; the bank's own when ``None``."""

    def __post_init__(self) -> None:
        """Check what can be checked before any file is read."""
        check_split(self.split)
        check_limit(self.limit)


def load_mixture(specs: Sequence[DataSpec], seed: int, prompter: Prompter) -> list[Prompt]:
    """Load and tokenize every spec and shuffle all examples together.

    Args:
        specs: At least one.
        seed: Decides the subsets and the order.
        prompter: Tokenizes, in the format that a spec names.

    Returns:
        All prompts, in an order that depends on `specs` and `seed` alone.

    Raises:
        DataError: If `specs` is empty, a source cannot be loaded, or no example is short enough.
    """
    if not specs:
        raise DataError("no data set was named; expected at least one DataSpec")
    prompts: list[Prompt] = []
    for spec in specs:
        prompts += load_prompts(spec, seed, prompter)
    random.Random(seed).shuffle(prompts)
    return prompts


def load_prompts(spec: DataSpec, seed: int, prompter: Prompter) -> list[Prompt]:
    """Load and tokenize one spec; arguments and errors as in `load_mixture`."""
    # With a longest K the limit counts what is short enough, so everything has to be loaded first.
    limit = spec.limit if spec.longest is None else None
    examples = load_source(spec.source, folder=spec.folder, split=check_split(spec.split), limit=limit, seed=seed)
    # Shuffled first, so that tokenizing can stop at the limit.
    random.Random(seed).shuffle(examples)
    prompts: list[Prompt] = []
    for example in examples:
        prompt = prompter.prompt(example, spec.format)
        if spec.longest is None or len(prompt.knowledge) <= spec.longest:
            prompts.append(prompt)
        if len(prompts) == spec.limit:
            break
    if not prompts:
        raise DataError(f"source {spec.source!r}: no example has at most longest={spec.longest} tokens of knowledge")
    return prompts
