"""The data sets: one file each, found by its name.

A new data set is a new file here with ``CARD`` and a function that takes a `Request` and returns or yields examples:

    CARD = Card(title="DREAM (Sun et al., 2019)", ...)

    def load(request: Request) -> Iterator[Example]: ...
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
import random
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from diekae.data.example import DataError, Example, Split, check_limit, check_split
from diekae.fields import did_you_mean
from diekae_research.data.card import Card, settle_options
from diekae_research.data.marks import marked
from diekae_research.data.request import BadRecords, Request

Loader = Callable[[Request], Iterable[Example]]


def source_names() -> list[str]:
    """Return the names of all sources, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def source_card(name: str) -> Card:
    """Return the card of a source.

    Raises:
        DataError: The name is unknown.
    """
    return _source(name)[0]


def iterate_source(
    name: str,
    *,
    folder: str | Path | None,
    split: Split,
    limit: int | None = None,
    seed: int = 0,
    options: Mapping[str, object] | None = None,
    bad: BadRecords | None = None,
    leaking: bool = True,
) -> Iterator[Example]:
    """Return an iterator over one part of a data set.

    With a limit the files are read twice, once to count, so that only one example is held at a time.

    Args:
        name: A source.
        folder: The folder with the upstream files; ``None`` for a source that needs none.
        split: ``train``, ``validation`` or ``test``.
        limit: At most this many examples: a random subset, in the order of the file. ``None`` loads all.
        seed: Decides the subset, and the documents of a source that generates them.
        options: Values of the card's options, or their texts.
        bad: Counts bad records, and says whether they are errors.
        leaking: Whether to include examples whose knowledge was made from the target.

    Returns:
        The examples; none if the data set does not have the part.

    Raises:
        DataError: A name or value is unknown, or a file is missing or damaged.
    """
    split = check_split(split)
    check_limit(limit)
    card, loader = _source(name)
    settled = settle_options(name, card, options or {})
    path = None if folder is None else Path(folder)
    request = Request(name, card, path, split, limit, seed, settled, bad or BadRecords())

    def everything(request: Request) -> Iterator[Example]:
        for example in loader(request):
            if leaking or not example.leaks:
                yield marked(example) if settled["paper_marks"] else example

    if limit is None:
        return everything(request)
    count = sum(1 for _ in everything(replace(request, bad=BadRecords(request.bad.strict))))
    chosen = range(count) if limit >= count else random.Random(seed).sample(range(count), limit)
    positions = set(chosen)
    return (example for index, example in enumerate(everything(request)) if index in positions)


def load_source(
    name: str,
    *,
    folder: str | Path | None,
    split: Split,
    limit: int | None = None,
    seed: int = 0,
    options: Mapping[str, object] | None = None,
    strict: bool = False,
) -> list[Example]:
    """Load one part of a data set, without examples whose knowledge was made from the target.

    Args:
        name: A source.
        folder: As for :func:`iterate_source`, like the arguments below.
        split: Which part.
        limit: At most this many examples.
        seed: Decides which.
        options: Values of the card's options.
        strict: Whether a bad record is an error; otherwise it is left out with a warning.

    Returns:
        The examples, at least one.

    Raises:
        DataError: A name or value is unknown, a file is missing or damaged, or there is no example.
    """
    bad = BadRecords(strict)
    examples = list(
        iterate_source(
            name, folder=folder, split=split, limit=limit, seed=seed, options=options, bad=bad, leaking=False
        )
    )
    if not examples:
        reason = f"{bad.count} bad records, the first {bad.first}" if bad.count else "is the data set complete?"
        raise DataError(f"source {name!r} has no example in split {split!r} of {folder}; {reason}")
    if bad.count:
        warnings.warn(f"source {name!r}: {bad.count} bad records left out, the first {bad.first}", stacklevel=2)
    return examples


def loaders() -> dict[str, Callable[..., list[Example]]]:
    """Return a loader for each source, for the entry point ``diekae.sources``."""
    return {name: functools.partial(load_source, name) for name in source_names()}


def _source(name: str) -> tuple[Card, Loader]:
    names = source_names()
    if name not in names:
        raise DataError(f"unknown source {name!r}; there are {', '.join(names)}.{did_you_mean(name, names)}")
    module: Any = importlib.import_module(f"{__name__}.{name}")
    return module.CARD, module.load
