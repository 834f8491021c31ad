"""What a source is asked for, and its way to the upstream files: missing files and bad records are handled here."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from diekae.data.example import DataError, MissingData, Split, parse_json
from diekae_research.data.card import Card, Value

Record = tuple[str, Any]
"""A record's place (file and line or entry, below the data set's folder) and its value."""
T = TypeVar("T")
_BROKEN = (EOFError, zlib.error, gzip.BadGzipFile)
"""What reading a broken compressed file leads to."""


@dataclass(slots=True)
class BadRecords:
    """Counts the records that are not as expected."""

    strict: bool = False
    """Whether the first one is an error."""
    count: int = 0
    """How many there were."""
    first: str | None = None
    """Place and fault of the first."""


@dataclass(frozen=True, slots=True)
class Request:
    """One part of a data set that is asked for."""

    source: str
    """The source's registered name, for messages."""
    card: Card
    """The source's card."""
    folder: Path | None
    """Where the upstream files are; ``None`` if the user named no folder."""
    split: Split
    """The wanted part."""
    limit: int | None
    """The wanted number of examples. `load_source` cuts to it; only a source that can make any number looks at it."""
    seed: int
    """Decides whatever is random."""
    options: Mapping[str, Value] = field(default_factory=dict)
    """A value for each option of the card."""
    bad: BadRecords = field(default_factory=BadRecords)
    """Takes note of bad records."""

    def path(self, name: str) -> Path:
        """Where a file or folder of the data set should be, whether or not it is there.

        Raises:
            MissingData: If no folder was named or it does not exist.
        """
        origin = self.card.origin
        if self.folder is None:
            raise MissingData(f"source {self.source!r} needs a folder that holds {name}, from {origin}; none was named")
        if not self.folder.is_dir():
            raise MissingData(
                f"source {self.source!r}: no folder {self.folder}; expected one that holds {name}, from {origin}"
            )
        return self.folder / name

    def there(self, name: str) -> bool:
        """Whether a file of the data set is there, as it is or compressed (``.gz``); errors as in `path`."""
        return self.path(name).is_file() or self.path(f"{name}.gz").is_file()

    def file(self, name: str) -> Path:
        """A file of the data set that must be there, as it is or compressed (``.gz``).

        Raises:
            MissingData: If it is missing.
        """
        if not self.there(name):
            raise MissingData(
                f"source {self.source!r}: {self.path(name)} is missing; get {name} from {self.card.origin}"
                + (f", or with `diekae-research data download {self.source}`" if self.card.upstream else "")
            )
        path = self.path(name)
        return path if path.is_file() else self.path(f"{name}.gz")

    def json(self, name: str) -> Any:
        """The content of a JSON file of the data set.

        Raises:
            DataError: If it is missing or not JSON.
        """
        path = self.file(name)
        try:
            with _opened(path) as file:
                return json.load(file)
        except (ValueError, *_BROKEN) as error:
            raise DataError(f"{path}: not JSON ({error}); get the file anew from {self.card.origin}") from error

    def entries(self, name: str, key: str | None = None) -> Iterator[Record]:
        """The entries of a JSON file that is one array, or an object with the array under `key`; errors as in `json`.

        Raises:
            DataError: If there is no such array.
        """
        content = self.json(name)
        array = content if key is None else content.get(key) if isinstance(content, dict) else None
        if not isinstance(array, list):
            wanted = "a JSON array" if key is None else f"a JSON object with an array {key!r}"
            raise DataError(f"{self.folder}/{name}: holds a {type(content).__name__}; expected {wanted}")
        for number, entry in enumerate(array):
            yield f"{name}: entry {number}", entry

    def lines(self, name: str) -> Iterator[Record]:
        """The values of a file with one JSON value a line, plain or compressed, one at a time; empty lines are skipped.

        Raises:
            DataError: If it is missing, or compressed and broken.
        """
        path = self.file(name)
        try:
            with _opened(path) as file:
                for number, line in enumerate(file, start=1):
                    if not line.strip():
                        continue
                    place = f"{path.relative_to(self.path('')).as_posix()}:{number}"
                    try:
                        value = parse_json(line)
                    except DataError as error:
                        self.note(place, error)
                    else:
                        yield place, value
        except _BROKEN as error:
            raise DataError(f"{path}: broken archive ({error}); get the file anew from {self.card.origin}") from error

    def files(self, folder: str) -> Iterator[Record]:
        """The content of every JSON file of a folder, in the order of their names.

        Raises:
            MissingData: If the folder is missing or holds no JSON file.
        """
        paths = sorted(self.path(folder).glob("*.json"))
        if not paths:
            raise MissingData(
                f"source {self.source!r}: no JSON file in {self.path(folder)}; get {folder} from {self.card.origin}"
            )
        for path in paths:
            place = f"{folder}/{path.name}"
            try:
                value = parse_json(path.read_bytes())
            except DataError as error:
                self.note(place, error)
            else:
                yield place, value

    def convert(self, records: Iterable[Record], convert: Callable[[Any], Iterable[T]]) -> Iterator[T]:
        """What `convert` makes of each record; a record that it cannot read is bad as a whole.

        Raises:
            DataError: If a record is bad and bad records are errors.
        """
        for place, record in records:
            try:
                made = list(convert(record))
            except (ValueError, TypeError, LookupError, AttributeError) as error:
                self.note(place, error)
            else:
                yield from made

    def note(self, place: str, error: Exception) -> None:
        """Count a bad record.

        Raises:
            DataError: If bad records are errors.
        """
        reason = str(error) if isinstance(error, DataError) else f"not a record of {self.source} ({error!r})"
        if self.bad.strict:
            raise DataError(f"{self.folder}/{place}: {reason}") from error
        self.bad.count += 1
        self.bad.first = self.bad.first or f"{place}: {reason}"


def _opened(path: Path) -> Any:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")
