"""One part of a data set that is to be loaded, and access to its upstream files: missing files and bad records."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from diekae.data.example import Split
from diekae.data.jsonl import DataError, parse_json
from diekae_research.data.card import Card, Value

Record = tuple[str, Any]
"""Where a record is (file and line or entry, below the data set's folder) and its value."""
T = TypeVar("T")
_BROKEN = (EOFError, zlib.error, gzip.BadGzipFile)
"""What reading a damaged compressed file raises."""


class MissingData(DataError):
    """Data is missing. The message says which file, and where to get it."""


@dataclass(slots=True)
class BadRecords:
    """Counts records that cannot be read."""

    strict: bool = False
    """Whether the first one raises an error."""
    count: int = 0
    """Bad records so far."""
    first: str | None = None
    """Where the first one is, and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Request:
    """One part of a data set that is to be loaded."""

    source: str
    """The source's registered name, for messages."""
    card: Card
    """The source's card."""
    folder: Path | None
    """Folder of the upstream files; ``None`` if none was named."""
    split: Split
    """Which part."""
    limit: int | None
    """Number of examples. `load_source` cuts to it; only a source that generates its examples needs it."""
    seed: int
    """Decides whatever is random."""
    options: Mapping[str, Value] = field(default_factory=dict)
    """A value of each option of the card."""
    bad: BadRecords = field(default_factory=BadRecords)
    """Counts bad records."""

    def path(self, name: str) -> Path:
        """Return the path of a file or folder of the data set, whether or not it exists.

        Raises:
            MissingData: No folder was named, or it does not exist.
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
        """Return whether a file of the data set exists, plain or compressed (``.gz``); errors as in `path`."""
        return self.path(name).is_file() or self.path(f"{name}.gz").is_file()

    def file(self, name: str) -> Path:
        """Return the path of a file that must exist, plain or compressed (``.gz``).

        Raises:
            MissingData: It is missing.
        """
        if not self.there(name):
            raise MissingData(
                f"source {self.source!r}: {self.path(name)} is missing; get {name} from {self.card.origin}"
                + (f", or with `diekae-research data download {self.source}`" if self.card.upstream else "")
            )
        path = self.path(name)
        return path if path.is_file() else self.path(f"{name}.gz")

    def json(self, name: str) -> Any:
        """Return the content of a JSON file.

        Raises:
            DataError: It is missing or not JSON.
        """
        path = self.file(name)
        try:
            with _opened(path) as file:
                return json.load(file)
        except (ValueError, RecursionError, *_BROKEN) as error:
            raise DataError(f"{path}: not JSON ({error}); get the file anew from {self.card.origin}") from error

    def entries(self, name: str, key: str | None = None) -> Iterator[Record]:
        """Yield the entries of a JSON file that is an array, or an object with an array `key`; errors as in `json`.

        Raises:
            DataError: There is no such array.
        """
        content = self.json(name)
        array = content if key is None else content.get(key) if isinstance(content, dict) else None
        if not isinstance(array, list):
            wanted = "a JSON array" if key is None else f"a JSON object with an array {key!r}"
            raise DataError(f"{self.folder}/{name}: holds a {type(content).__name__}; expected {wanted}")
        for number, entry in enumerate(array):
            yield f"{name}: entry {number}", entry

    def lines(self, name: str) -> Iterator[Record]:
        """Yield the values of a file with one JSON value a line, plain or compressed; empty lines are skipped.

        Raises:
            DataError: It is missing, or its archive is damaged.
        """
        path = self.file(name)
        place = path.relative_to(self.path("")).as_posix()
        try:
            with _opened(path) as file:
                lines = enumerate(file, start=1)
                yield from self._parsed((f"{place}:{number}", line) for number, line in lines if line.strip())
        except _BROKEN as error:
            raise DataError(f"{path}: broken archive ({error}); get the file anew from {self.card.origin}") from error

    def _parsed(self, contents: Iterable[tuple[str, bytes]]) -> Iterator[Record]:
        """Yield the values of JSON texts; one that is not JSON is bad."""
        for place, content in contents:
            try:
                value = parse_json(content)
            except DataError as error:
                self.note(place, error)
            else:
                yield place, value

    def rows(self, name: str, columns: Sequence[str]) -> Iterator[Record]:
        """Yield the rows of a CSV file by column; a quoted field may hold line breaks.

        Raises:
            DataError: The file is missing, is not CSV in UTF-8, ends inside quotes, or lacks a column.
        """
        path = self.file(name)
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                rows = csv.DictReader(file, strict=True)
                names = rows.fieldnames or ()
                if not set(columns) <= set(names):
                    raise DataError(f"{path}: its columns are {list(names)}; expected {', '.join(columns)}")
                for row in rows:
                    place = f"{name}: the record that ends on line {rows.line_num}"
                    if None in row or None in row.values():
                        self.note(place, DataError(f"it has not {len(names)} fields, as the first line has"))
                    else:
                        yield place, row
        except csv.Error as error:
            raise DataError(f"{path}: not CSV ({error}); get the file anew from {self.card.origin}") from error
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not UTF-8 ({error.reason}); save the file as UTF-8") from error

    def files(self, folder: str) -> Iterator[Record]:
        """Yield the content of every JSON file of a folder, ordered by name.

        Raises:
            MissingData: The folder is missing or holds no JSON file.
        """
        paths = sorted(self.path(folder).glob("*.json"))
        if not paths:
            raise MissingData(
                f"source {self.source!r}: no JSON file in {self.path(folder)}; get {folder} from {self.card.origin}"
            )
        yield from self._parsed((f"{folder}/{path.name}", path.read_bytes()) for path in paths)

    def convert(self, records: Iterable[Record], convert: Callable[[Any], Iterable[T]]) -> Iterator[T]:
        """Yield what `convert` returns for each record; a record that it cannot convert is bad.

        Raises:
            DataError: A record is bad, and `bad` is strict.
        """
        for place, record in records:
            try:
                converted = list(convert(record))
            except (ValueError, TypeError, LookupError, AttributeError) as error:
                self.note(place, error)
            else:
                yield from converted

    def note(self, place: str, error: Exception) -> None:
        """Count a bad record.

        Raises:
            DataError: `bad` is strict.
        """
        reason = str(error) if isinstance(error, DataError) else f"not a record of {self.source} ({error!r})"
        if self.bad.strict:
            raise DataError(f"{self.folder}/{place}: {reason}") from error
        self.bad.count += 1
        self.bad.first = self.bad.first or f"{place}: {reason}"


def _opened(path: Path) -> Any:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")
