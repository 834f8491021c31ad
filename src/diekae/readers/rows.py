"""Records: CSV, TSV, JSON and JSON lines, as lines that can be understood alone.

A row of a table, or an object in a list, becomes one line: ``name: Ada; born: 1815``. So every passage of a long file
names its values. Values outside of lists have one line each: ``address.city: London``.
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from diekae.readers.base import Unreadable, one_line, read_plain

DELIMITERS = ",;\t|"
"""Delimiters that are tried for CSV, the most likely first."""
NO_DELIMITER = "\x1f"
"""Used for a table of one column: a character that no text contains."""
SAMPLE = 20, 2**16
"""Rows and characters that are examined to find the delimiter."""


def read_csv(path: Path) -> str:
    """Return a table with one line for each row: ``column: value; column: value``. Empty cells are left out."""
    text = read_plain(path)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else _delimiter(text)
    return "\n".join(_lines(list(_rows(text, delimiter))))


def _rows(text: str, delimiter: str) -> Iterator[list[str]]:
    """Yield the rows that are not empty, each cell on one line."""
    for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter):
        cells = [one_line(cell) for cell in row]
        if any(cells):
            yield cells


def _delimiter(text: str) -> str:
    """Return the delimiter by which most of the first rows have the same width, and the first more than one column."""
    row_count, length = SAMPLE

    def fit(delimiter: str) -> tuple[float, int]:
        """Return the share of rows with the most frequent width, and this width."""
        widths = [len(row) for row in islice(_rows(text[:length], delimiter), row_count)]
        if not widths or widths[0] == 1:
            return 0.0, 0
        width, count = Counter(widths).most_common(1)[0]
        return count / len(widths), width

    best = max(DELIMITERS, key=fit)
    return best if fit(best)[0] else NO_DELIMITER


def _lines(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return each row as a line with the column names; the first row has them, unless all its cells are numbers."""
    if len(rows) < 2:
        return ["; ".join(filter(None, row)) for row in rows]
    has_header = not all(map(_is_number, rows[0]))
    header = rows[0] if has_header else []
    padded = [*header, *[""] * (max(map(len, rows)) - len(header))]
    names = [name or f"column {number}" for number, name in enumerate(padded, 1)]
    return [_pairs(zip(names, row, strict=False)) for row in rows[1 if has_header else 0 :]]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _pairs(pairs: Iterable[tuple[str, str]]) -> str:
    """Join names and values on one line, without empty values."""
    return "; ".join(f"{name}: {value}" if name else value for name, value in pairs if value)


def read_json(path: Path) -> str:
    """Return a JSON file: a list with one line for each entry, anything else with lines ``path.key: value``."""
    try:
        content = _parsed(read_plain(path))
    except json.JSONDecodeError as error:
        hint = "; if each line is a value of its own, name it .jsonl" if error.msg == "Extra data" else ""
        raise Unreadable(f"is not JSON ({error}); correct it there{hint}.") from error
    if isinstance(content, list):
        return "\n".join(map(_entry, content))
    return "\n".join(f"{name}: {text}" if name else text for name, text in _flat(content))


def read_json_lines(path: Path) -> str:
    """Return a file of JSON lines, with one line for each value."""
    entries = []
    for number, line in enumerate(read_plain(path).split("\n"), 1):
        try:
            if line.strip():
                entries.append(_entry(_parsed(line)))
        except json.JSONDecodeError as error:
            raise Unreadable(f"has no JSON in line {number} ({error}); correct or remove that line.") from error
    return "\n".join(entries)


def _parsed(text: str) -> Any:
    """Parse JSON; numbers are kept as they are written."""
    return json.loads(text, parse_int=str, parse_float=str)


def _entry(value: Any) -> str:
    """Return an entry of a list on one line."""
    return _pairs((name, one_line(text)) for name, text in _flat(value, in_line=True))


def _flat(value: Any, path: str = "", *, in_line: bool = False) -> Iterator[tuple[str, str]]:
    """Yield the path and the text of each value inside a parsed value; the paths begin with its own.

    Entries of lists are numbered from 1. ``in_line`` values are part of a line, where objects of a list are in
    brackets.
    """
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}" if path else key, in_line=in_line)
    elif isinstance(value, list) and any(isinstance(inner, dict | list) for inner in value):
        for number, inner in enumerate(value, 1):
            yield f"{path}[{number}]", f"({_entry(inner)})" if in_line else _entry(inner)
    elif isinstance(value, list) and value:
        yield path, ", ".join(map(_scalar, value))
    else:
        yield path, _scalar(value)


def _scalar(value: Any) -> str:
    if value is None or value in ([], {}):
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)
