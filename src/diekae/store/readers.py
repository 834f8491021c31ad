"""The texts of files: which kinds are read, by which reader, and which files of a folder.

A reader is a function from a path to a text, in :mod:`diekae.store.kinds`. It may raise any exception:
:func:`read_document` turns it into a :class:`ValueError` that names the file and says what to do.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from diekae.store.kinds.base import LARGEST, Unreadable, read_plain
from diekae.store.kinds.mail import read_mail
from diekae.store.kinds.pages import read_html, read_pdf
from diekae.store.kinds.rows import read_csv, read_json, read_json_lines
from diekae.store.kinds.word import read_word
from diekae.store.layout import CATALOGUE, PREPARED

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
HIDDEN = (".", "~$")
"""How the names of hidden files begin; Word marks open files with the second."""


class FolderContents(NamedTuple):
    """The files below a folder."""

    readable: list[Path]
    """Files of the kinds in `READERS`, sorted."""
    skipped: list[Path]
    """Files of other kinds, links that lead out of the folder, and folders that cannot be listed; sorted."""


def read_document(path: Path, *, any_kind: bool = False) -> str:
    """Return the text of a file, without trailing blanks and with at most one empty line in a row.

    Args:
        path: The file.
        any_kind: Read a file of an unknown kind as plain text.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is of an unknown kind, too large, cannot be read, or holds no text.
        ModuleNotFoundError: The library that reads this kind is not installed.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file at {printable(path)!r}; expected a document or a folder of documents.")
    read = READERS.get(path.suffix.lower(), _read_unknown if any_kind else None)
    if read is None:
        raise ValueError(f"{printable(path)!r} is of a kind that cannot be read; expected one of {', '.join(READERS)}.")
    # JSON and e-mail may hold halves of characters, which nothing can store.
    text = _read(read, path).encode("utf-8", "replace").decode().replace("\x00", "")
    text = "\n".join(line.rstrip() for line in text.splitlines())
    text = re.sub(r"\n{3,}", "\n\n", text).strip()
    if not text:
        raise ValueError(f"{printable(path)!r} holds no text.")
    return text


def _read(read: Callable[[Path], str], path: Path) -> str:
    """Read a file, and turn any error into a ValueError that names the file and says what to do."""
    name, kind = repr(printable(path)), path.suffix[1:].upper() or "text"
    try:
        if (size := path.stat().st_size) > LARGEST:
            raise Unreadable(f"has {size / 1e6:.0f} MB, and at most {LARGEST / 1e6:.0f} MB are read; split it.")
        return read(path)
    except ModuleNotFoundError:
        raise
    except Unreadable as error:
        raise ValueError(f"{name} {error}") from error
    except RecursionError as error:
        raise ValueError(f"{name} is nested too deeply to be read; save it as plain text (.txt).") from error
    except OSError as error:
        raise ValueError(
            f"{name} cannot be read ({error.strerror or error}); check that it is complete and you may read it."
        ) from error
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # damaged files make the libraries raise all kinds; Rust's panics are no Exception
        reason = printable(f"{type(error).__name__}: {error}".splitlines()[0][:200])
        raise ValueError(
            f"{name} cannot be read as {kind} ({reason}); open it in its own program and save it again, or as "
            "plain text (.txt)."
        ) from error


def _read_unknown(path: Path) -> str:
    """Return a file of an unknown kind, if it is a text.

    Raises:
        Unreadable: It is not a text.
    """
    text = read_plain(path)
    if "\x00" in text:
        raise Unreadable(f"is not a text; expected plain text, or one of {', '.join(READERS)}.")
    return text


def printable(path: str | Path) -> str:
    """Return a path as text, with a code in place of each byte of its name that is not UTF-8."""
    return str(path).encode("utf-8", "backslashreplace").decode()


def find_documents(folder: Path) -> FolderContents:
    """Return the files below a folder: those that can be read, and those that are skipped.

    Hidden files and folders (``.git``) and the files of a store are left out of both. Links to folders inside the
    folder are not followed, because their files are found anyway.
    """
    contents, root = FolderContents([], []), Path(os.path.realpath(folder))

    def skip_unlisted(error: OSError) -> None:
        contents.skipped.append(Path(error.filename))

    for parent, folders, files in os.walk(folder, onerror=skip_unlisted):
        left_out = (PREPARED,) if CATALOGUE in files else ()
        folders[:] = [name for name in folders if not name.startswith(HIDDEN) and name not in left_out]
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        for name in (*links, *files):
            if name.startswith((*HIDDEN, CATALOGUE)):  # SQLite's files beside the catalogue begin with its name
                continue
            path = Path(parent, name)
            leads_out = path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(root)
            if os.path.isdir(path) and not leads_out:
                continue
            readable = not leads_out and path.suffix.lower() in READERS and os.path.isfile(path)
            (contents.readable if readable else contents.skipped).append(path)
    return FolderContents(sorted(contents.readable), sorted(contents.skipped))
