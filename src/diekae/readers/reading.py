"""Reads a file by its kind.

A reader is a function from a path to a text. It may raise any exception, take any time, or crash: `read_document` turns
that into a :class:`ValueError` that names the file and says what to do.
"""

import re
from collections.abc import Callable
from pathlib import Path

from diekae.readers.base import LARGEST, Unreadable, read_plain
from diekae.readers.mail import read_mail
from diekae.readers.pages import read_html, read_pdf
from diekae.readers.process import read_in_process
from diekae.readers.rows import read_csv, read_json, read_json_lines
from diekae.readers.word import read_word

READERS: dict[str, Callable[[Path], str]] = {
    ".txt": read_plain,
    ".text": read_plain,
    ".md": read_plain,
    ".markdown": read_plain,
    ".rst": read_plain,
    ".html": read_html,
    ".htm": read_html,
    ".xhtml": read_html,
    ".pdf": read_pdf,
    ".docx": read_word,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".json": read_json,
    ".jsonl": read_json_lines,
    ".eml": read_mail,
}
"""Reader by suffix."""


def read_document(path: Path, *, any_kind: bool = False) -> str:
    """Return the text of a file, without trailing blanks and with at most one empty line in a row.

    Args:
        path: The file.
        any_kind: Read a file of an unknown kind as plain text.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is of an unknown kind, is too large, takes too long, cannot be read, or holds no text.
        ModuleNotFoundError: The library that reads this kind is not installed.
    """
    name = repr(printable(path))
    if not path.is_file():
        raise FileNotFoundError(f"no file at {name}; expected a document or a folder of documents.")
    read = READERS.get(path.suffix.lower(), _read_unknown if any_kind else None)
    if read is None:
        raise ValueError(f"{name} is of a kind that cannot be read; expected one of {', '.join(READERS)}.")
    try:
        # Plain text needs no second process: it is read fast, and nothing in it is interpreted.
        text = text_of(path, read) if read in (read_plain, _read_unknown) else read_in_process(path)
    except Unreadable as error:
        raise ValueError(f"{name} {error}") from error
    if not text:
        raise ValueError(f"{name} holds no text.")
    return text


def text_of(path: Path, read: Callable[[Path], str]) -> str:
    """Return the text that a reader gives, in this process.

    Raises:
        Unreadable: The reader has raised anything, or the file is too large.
        ModuleNotFoundError: The library that reads this kind is not installed.
    """
    kind = path.suffix[1:].upper() or "text"
    try:
        if (size := path.stat().st_size) > LARGEST:
            raise Unreadable(f"has {size / 1e6:.0f} MB, and at most {LARGEST / 1e6:.0f} MB are read; split it.")
        text = read(path)
    except (ModuleNotFoundError, Unreadable):
        raise
    except RecursionError as error:
        raise Unreadable("is nested too deeply to be read; save it as plain text (.txt).") from error
    except OSError as error:
        raise Unreadable(
            f"cannot be read ({error.strerror or error}); check that it is complete and you may read it."
        ) from error
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # damaged files make the libraries raise all kinds; Rust's panics are no Exception
        reason = printable(f"{type(error).__name__}: {error}".splitlines()[0][:200])
        raise Unreadable(
            f"cannot be read as {kind} ({reason}); open it in its own program and save it again, or as plain text "
            "(.txt)."
        ) from error
    # JSON and e-mail may hold halves of characters, which nothing can store.
    text = text.encode("utf-8", "replace").decode().replace("\x00", "")
    text = "\n".join(line.rstrip() for line in text.splitlines())
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def _read_unknown(path: Path) -> str:
    """Return a file of an unknown kind, if it is a text; else it is `Unreadable`."""
    text = read_plain(path)
    if "\x00" in text:
        raise Unreadable(f"is not a text; expected plain text, or one of {', '.join(READERS)}.")
    return text


def printable(path: str | Path) -> str:
    """Return a path as text, with a code in place of each byte of its name that is not UTF-8."""
    return str(path).encode("utf-8", "backslashreplace").decode()
