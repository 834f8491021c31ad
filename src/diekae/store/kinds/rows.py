"""Records: CSV, TSV, JSON and JSON lines, laid out so that each line makes sense alone.

A row of a table, and an object in a list, is one line, ``name: Ada; born: 1815``: of a long file that is read in parts,
each part says what is what. What stands in no list has a line for each value, ``address.city: London``.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from diekae.store.kinds.base import Unreadable, one_line, read_plain

DELIMITERS = ",;\t|"
"""What may part the columns of CSV, the likeliest first."""
NO_DELIMITER = "\x1f"
"""Stands in no text: the table has one column."""
SAMPLE = 20, 2**16
"""Rows and characters that are looked at to find the delimiter."""


def read_csv(path: Path) -> str:
    """Return a table, a row a line: ``column: value; column: value``; empty cells are left out."""
    text = read_plain(path)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else _delimiter(text)
    return "\n".join(_lines(list(_rows(text, delimiter))))


def _rows(text: str, delimiter: str) -> Iterator[list[str]]:
    """Yield the rows that hold anything, their cells on one line each."""
    for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter):
        cells = [one_line(cell) for cell in row]
        if any(cells):
            yield cells


def _delimiter(text: str) -> str:
    """Return what parts the columns: by it most of the first rows are alike wide, and the names of columns several."""
    most, length = SAMPLE

    def fit(delimiter: str) -> tuple[float, int]:
        widths = [len(row) for row, _ in zip(_rows(text[:length], delimiter), range(most), strict=False)]
        if not widths or widths[0] == 1:
            return 0.0, 0
        width, rows = Counter(widths).most_common(1)[0]
        return rows / len(widths), width

    best = max(DELIMITERS, key=fit)
    return best if fit(best)[0] else NO_DELIMITER


def _lines(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lay out each row with the names of its columns, which the first row tells unless it is of numbers alone."""
    if len(rows) < 2:
        return ["; ".join(filter(None, row)) for row in rows]
    headless = all(map(_is_number, rows[0]))
    given = [] if headless else rows[0]
    names = [*given, *[""] * (max(map(len, rows)) - len(given))]
    names = [name or f"column {number}" for number, name in enumerate(names, 1)]
    return [_pairs(zip(names, row, strict=False)) for row in rows[0 if headless else 1 :]]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _pairs(pairs: Iterable[tuple[str, str]]) -> str:
    """Join names and values on one line, without values that are empty."""
    return "; ".join(f"{name}: {value}" if name else value for name, value in pairs if value)


def read_json(path: Path) -> str:
    """Return a JSON file: of a list an entry a line, else ``path.key: value`` a line.

    Raises:
        Unreadable: It is not JSON.
    """
    try:
        content = _parsed(read_plain(path))
    except json.JSONDecodeError as error:
        hint = "; if each line is a value of its own, name it .jsonl" if error.msg == "Extra data" else ""
        raise Unreadable(f"is not JSON ({error}); correct it there{hint}.") from error
    if isinstance(content, list):
        return "\n".join(map(_entry, content))
    return "\n".join(f"{name}: {text}" if name else text for name, text in _flat(content))


def read_json_lines(path: Path) -> str:
    """Return a file with a JSON value in each line, each on one line.

    Raises:
        Unreadable: A line is not JSON.
    """
    entries = []
    for number, line in enumerate(read_plain(path).split("\n"), 1):
        try:
            if line.strip():
                entries.append(_entry(_parsed(line)))
        except json.JSONDecodeError as error:
            raise Unreadable(f"has no JSON in line {number} ({error}); correct or remove that line.") from error
    return "\n".join(entries)


def _parsed(text: str) -> Any:
    """Parse JSON; numbers stay as they are written."""
    return json.loads(text, parse_int=str, parse_float=str)


def _entry(value: Any) -> str:
    """Lay out an entry of a list on one line."""
    return _pairs((name, one_line(text)) for name, text in _flat(value, within=True))


def _flat(value: Any, path: str = "", *, within: bool = False) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of all that is in a value.

    Args:
        value: What was parsed.
        path: Its name; what is in it is named behind it, entries of lists by their number from 1.
        within: Whether it is part of a line: a list's objects then stand in brackets.
    """
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}" if path else key, within=within)
    elif isinstance(value, list) and any(isinstance(inner, dict | list) for inner in value):
        for number, inner in enumerate(value, 1):
            yield f"{path}[{number}]", f"({_entry(inner)})" if within else _entry(inner)
    elif isinstance(value, list) and value:
        yield path, ", ".join(map(_scalar, value))
    else:
        yield path, _scalar(value)


def _scalar(value: Any) -> str:
    if value is None or value in ([], {}):
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)
