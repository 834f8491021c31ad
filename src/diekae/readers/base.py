"""What all readers share: the error for a file that cannot be read, plain text, and tables as Markdown."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LARGEST = 50 * 10**6
"""Most bytes of a file that is read."""


class Unreadable(ValueError):
    """A file cannot be read. The message continues after the file's name: ``is not UTF-8; save it as UTF-8``."""


def need(module: str) -> Any:
    """Import a module of the extra ``documents``; a ModuleNotFoundError says how to install it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"this kind of file needs {module}, which is not installed; run `pip install 'diekae[documents]'`."
        ) from error


def read_plain(path: Path) -> str:
    """Return a text file as it is; one that is not UTF-8 is :class:`Unreadable`."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unreadable(f"is not UTF-8 ({error}); save it as UTF-8.") from error


def one_line(text: str) -> str:
    """Return a text on one line, with single blanks."""
    return " ".join(text.split())


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as a Markdown table, the first row as its head; short rows are filled with empty cells."""
    width = max(map(len, rows))
    cells = [[one_line(cell).replace("|", r"\|") for cell in row] + [""] * (width - len(row)) for row in rows]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([lines[0], f"|{' --- |' * width}", *lines[1:]])
