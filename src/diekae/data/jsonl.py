"""JSON of users: parsing, the lines of JSONL files, and the errors that name what is wrong."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

_HALF = re.compile("[\ud800-\udfff]")
"""Half of a surrogate pair."""


class DataError(ValueError):
    """Data cannot be used. The message says which file, what is wrong, and what was expected."""


def parse_json(content: bytes) -> object:
    """Return the JSON value of a line, or of a whole file; :class:`DataError` if it is not JSON in UTF-8."""
    try:
        # Editors on Windows may begin a file with a byte order mark, which is not part of the JSON.
        value: object = json.loads(content.decode("utf-8-sig"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 ({error.reason}); save the file as UTF-8") from error
    except json.JSONDecodeError as error:
        raise DataError(f"not JSON ({error.msg} at column {error.colno})") from error
    except RecursionError as error:
        raise DataError("not usable JSON (lists or objects are nested too deep)") from error
    except ValueError as error:  # a constant, or a whole number of more digits than Python converts
        raise DataError(f"not usable JSON ({error})") from error
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a value of JSON")


def read_json_lines(path: Path) -> Iterator[tuple[str, object]]:
    """Yield the values of a JSONL file, each with its place (file and line); empty lines are skipped.

    Lines end with a line feed, as JSON Lines defines it; other line separators of Unicode are part of a text.

    Raises:
        DataError: A line is not JSON in UTF-8.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            place = f"{path}:{number}"
            try:
                value = parse_json(line)
            except DataError as error:
                raise DataError(f"{place}: {error}") from error
            yield place, value


def check_unicode(what: str, text: str) -> None:
    r"""Refuse a text with half of a surrogate pair, which no tokenizer and no file in UTF-8 takes.

    Python reads bytes of the command line that are not UTF-8 as such halves, and JSON may write them: ``"\ud800"``.

    Raises:
        DataError: The text has one.
    """
    if half := _HALF.search(text):
        code = f"U+{ord(half[0]):04X}"
        raise DataError(f"{what} is not Unicode: it holds {code}, which is no character; write it in UTF-8")
