"""The registry of data sets: one file a data set, which registers itself by name.

A new data set is a new file here with a function that takes a `Request` and returns examples:

    @register("dream")
    def load_dream(request: Request) -> list[Example]: ...
"""

from __future__ import annotations

import difflib
import functools
import importlib
import json
import pkgutil
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from diekae.data.example import DataError, Example, Split, check_limit


@dataclass(frozen=True, slots=True)
class Request:
    """What a source is asked for."""

    source: str
    """The source's registered name, for messages."""
    folder: Path | None
    """Where the upstream files are; ``None`` if the user named no folder."""
    split: Split
    """The wanted part."""
    limit: int | None
    """The wanted number of examples. `load_source` cuts to it; only a source that can make any number looks at it."""
    seed: int
    """Decides whatever is random."""

    def path(self, name: str, upstream: str) -> Path:
        """Where a file of the data set should be, whether or not it is there.

        Args:
            name: The file's name below the folder.
            upstream: Where the data set comes from, for the message.

        Raises:
            DataError: If no folder was named or it does not exist.
        """
        if self.folder is None:
            raise DataError(f"source {self.source!r} needs a folder that holds {name}, from {upstream}; none was named")
        if not self.folder.is_dir():
            raise DataError(
                f"source {self.source!r}: no folder {self.folder}; expected one that holds {name}, from {upstream}"
            )
        return self.folder / name

    def file(self, name: str, upstream: str) -> Path:
        """A file of the data set that must be there; arguments as in `path`.

        Raises:
            DataError: If it is missing.
        """
        path = self.path(name, upstream)
        if not path.is_file():
            raise DataError(f"source {self.source!r}: {path} is missing; get {name} from {upstream}")
        return path

    def json(self, name: str, upstream: str) -> Any:
        """The content of a JSON file of the data set; arguments as in `path`.

        Raises:
            DataError: If it is missing or not JSON.
        """
        path = self.file(name, upstream)
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{path}: not JSON ({error}); get the file anew from {upstream}") from error


Loader = Callable[[Request], list[Example]]
_LOADERS: dict[str, Loader] = {}


def register(name: str) -> Callable[[Loader], Loader]:
    """Register the decorated loader under `name`.

    Raises:
        ValueError: If the name is taken.
    """

    def add(loader: Loader) -> Loader:
        if name in _LOADERS:
            raise ValueError(
                f"source {name!r} is already registered by {_LOADERS[name].__module__}; choose another name"
            )
        _LOADERS[name] = loader
        return loader

    return add


def source_names() -> list[str]:
    """The names of all registered sources, sorted."""
    _import_sources()
    return sorted(_LOADERS)


def load_source(
    name: str, *, folder: str | Path | None, split: Split, limit: int | None = None, seed: int = 0
) -> list[Example]:
    """Load one part of a data set.

    Args:
        name: A registered name.
        folder: The folder with the upstream files; ``None`` for a source that needs none.
        split: Which part.
        limit: At most this many examples: a random subset, in the order of the file. All when ``None``.
        seed: Decides the subset, and the documents of a source that makes its own.

    Returns:
        The examples, at least one.

    Raises:
        DataError: If the name or split is unknown, or a file is missing or not as expected.
    """
    split = check_split(split)
    check_limit(limit)
    names = source_names()
    if name not in names:
        raise DataError(f"unknown source {name!r}{nearest(name, names)}; there are {', '.join(names)}")
    place = None if folder is None else Path(folder)
    examples = _LOADERS[name](Request(name, place, split, limit, seed))
    if not examples:
        raise DataError(f"source {name!r} has no example in split {split!r} of {place}; is the data set complete?")
    if limit is None or limit >= len(examples):
        return examples
    chosen = random.Random(seed).sample(range(len(examples)), limit)
    return [examples[index] for index in sorted(chosen)]


def check_split(split: str) -> Split:
    """Return `split` if it is the name of a part.

    Raises:
        DataError: If it is not.
    """
    names: tuple[Split, ...] = get_args(Split)
    for name in names:
        if split == name:
            return name
    raise DataError(f"unknown split {split!r}{nearest(split, names)}; there are {', '.join(names)}")


def nearest(name: str, names: list[str] | tuple[str, ...]) -> str:
    """A suggestion to put behind an unknown name; empty if nothing is near."""
    near = difflib.get_close_matches(name, names)
    return f", did you mean {' or '.join(map(repr, near))}?" if near else ""


@functools.cache
def _import_sources() -> None:
    """Import every file of this folder, once and late: each imports `register` from here."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
