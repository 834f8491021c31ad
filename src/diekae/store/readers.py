"""Texts out of files: which kinds are read, by which reader, and which files of a folder.

A reader is a function of a path, in :mod:`diekae.store.kinds`. It may raise what it likes: what its caller sees is a
:class:`ValueError` that names the file and says what to do.
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
"""Kinds of files, by suffix."""
HIDDEN = (".", "~$")
"""What the names of hidden files begin with; the second are Word's marks of a file that is open."""


STORE = "catalogue.sqlite", "memories"
"""What a store writes into its folder; it may lie among the documents."""


class Documents(NamedTuple):
    """What a folder holds."""

    found: list[Path]
    """Files that can be read, in order."""
    skipped: list[Path]
    """Files of kinds that are not known, links that lead out of the folder, and what cannot be looked into."""


def read_document(path: Path, *, any_kind: bool = False) -> str:
    """Return the text of a file, without trailing blanks or runs of empty lines.

    Args:
        path: The file.
        any_kind: Read a file of a kind that is not known as plain text.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Its kind is not known, it is too large or cannot be read, or it holds no text.
        ModuleNotFoundError: The library that reads its kind is not installed.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file at {str(path)!r}; expected a document or a folder of documents.")
    read = READERS.get(path.suffix.lower(), _read_unknown if any_kind else None)
    if read is None:
        raise ValueError(f"{str(path)!r} is of no kind that can be read; expected one of {', '.join(READERS)}.")
    text = "\n".join(line.rstrip() for line in _read(read, path).replace("\x00", "").splitlines())
    text = re.sub(r"\n{3,}", "\n\n", text).strip()
    if not text:
        raise ValueError(f"{str(path)!r} holds no text.")
    return text


def _read(read: Callable[[Path], str], path: Path) -> str:
    """Read a file, and say in our words whatever goes wrong."""
    kind = path.suffix[1:].upper() or "text"
    try:
        if (size := path.stat().st_size) > LARGEST:
            raise Unreadable(f"has {size / 1e6:.0f} MB, and at most {LARGEST / 1e6:.0f} MB are read; split it.")
        return read(path)
    except ModuleNotFoundError:
        raise
    except Unreadable as error:
        raise ValueError(f"{str(path)!r} {error}") from error
    except RecursionError as error:
        raise ValueError(f"{str(path)!r} is nested too deeply to be read; save it as plain text (.txt).") from error
    except OSError as error:
        raise ValueError(
            f"{str(path)!r} cannot be read ({error.strerror or error}); see that it is whole and that you may read it."
        ) from error
    except Exception as error:  # readers meet broken and hostile files, and raise of every kind
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise ValueError(
            f"{str(path)!r} cannot be read as {kind} ({reason}); open it in its own program and save it anew, or as "
            "plain text (.txt)."
        ) from error


def _read_unknown(path: Path) -> str:
    """Return a file of a kind that is not known, if it is a text.

    Raises:
        Unreadable: It is none.
    """
    text = read_plain(path)
    if "\x00" in text:
        raise Unreadable(f"is no text; expected plain text, or one of {', '.join(READERS)}.")
    return text


def find_documents(folder: Path) -> Documents:
    """Return the files below a folder: those that can be read, and those that are skipped.

    What is hidden (``.git``), and what a store has written, is passed by. Links to folders are not followed: within the
    folder the same files are found anyway.
    """
    documents, inside = Documents([], []), Path(os.path.realpath(folder))

    def refused(error: OSError) -> None:
        documents.skipped.append(Path(error.filename))

    for place, folders, files in os.walk(folder, onerror=refused):
        store = STORE[0] in files
        folders[:] = [name for name in folders if not name.startswith(HIDDEN) and not (store and name == STORE[1])]
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        for name in (*links, *files):
            if name.startswith((*HIDDEN, STORE[0])):
                continue
            path = Path(place, name)
            leads_out = path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(inside)
            if os.path.isdir(path) and not leads_out:
                continue
            known = path.suffix.lower() in READERS and os.path.isfile(path)
            (documents.skipped if leads_out or not known else documents.found).append(path)
    return Documents(sorted(documents.found), sorted(documents.skipped))
