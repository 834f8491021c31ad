"""Sources of examples: JSONL files, and data sets that other packages add.

A package adds data sets by an entry point of the group ``diekae.sources``: a function that takes nothing and returns
loaders by name. ``diekae-research`` adds those of the paper.
"""

import functools
import random
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol

from diekae.data.example import DataError, Example, Split, check_limit, check_split, read_examples
from diekae.fields import did_you_mean

GROUP = "diekae.sources"


class Loader(Protocol):
    """Loads one part of a data set; arguments as for :func:`load_source`."""

    def __call__(
        self,
        *,
        folder: str | Path | None,
        split: Split,
        limit: int | None,
        seed: int,
        options: Mapping[str, object] | None,
    ) -> list[Example]:
        """Return at least one example."""


def source_names() -> list[str]:
    """Return the names of all sources, sorted."""
    return sorted(_loaders())


def load_source(
    name: str,
    *,
    folder: str | Path | None,
    split: str,
    limit: int | None = None,
    seed: int = 0,
    options: Mapping[str, object] | None = None,
) -> list[Example]:
    """Load one part of a data set.

    Args:
        name: ``jsonl`` for ``train.jsonl``, ``validation.jsonl`` and ``test.jsonl`` of a folder, or a name that an
            installed package adds.
        folder: The folder with the data set's files; None for a source that needs none.
        split: ``train``, ``validation`` or ``test``.
        limit: At most this many examples: a random subset, in the order of the file. None loads all.
        seed: Decides the subset.
        options: Options of the source.

    Raises:
        DataError: A name or value is unknown, a file is missing or damaged, or there is no example.
    """
    part = check_split(split)
    check_limit(limit)
    loaders = _loaders()
    if name not in loaders:
        advice = "" if len(loaders) > 1 else "; the data sets of the paper come with the package diekae-research"
        names = sorted(loaders)
        raise DataError(f"unknown source {name!r}; there are {', '.join(names)}{advice}.{did_you_mean(name, names)}")
    return loaders[name](folder=folder, split=part, limit=limit, seed=seed, options=options)


def load_jsonl(
    *, folder: str | Path | None, split: Split, limit: int | None, seed: int, options: Mapping[str, object] | None
) -> list[Example]:
    """Load a part of your own data; arguments and errors as for :func:`load_source`."""
    if options:
        raise DataError(f"source 'jsonl' has no option {next(iter(options))!r}; leave `options` out")
    if folder is None:
        raise DataError(f"source 'jsonl' needs a folder that holds {split}.jsonl; none was named")
    examples = [example for example in read_examples(Path(folder) / f"{split}.jsonl") if not example.leaks]
    if not examples:
        raise DataError(f"all knowledge in {Path(folder) / f'{split}.jsonl'} was made from its target; nothing is left")
    if limit is None or limit >= len(examples):
        return examples
    return [examples[index] for index in sorted(random.Random(seed).sample(range(len(examples)), limit))]


@functools.cache
def _loaders() -> dict[str, Loader]:
    loaders: dict[str, Loader] = {"jsonl": load_jsonl}
    for entry in entry_points(group=GROUP):
        loaders |= entry.load()()
    return loaders
