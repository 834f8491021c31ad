"""The input of a store: texts, files and the files of folders, and the result of adding them."""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from diekae.files import FileState, as_path, existing_path
from diekae.readers import READERS, printable
from diekae.store.layout import CATALOGUE, PREPARED

STEP = 20 * 10**6
"""Nanoseconds by which the time stamp of a file may be too early."""
LONGEST_TITLE = 60
"""Most characters of a title that is the beginning of a text."""

HIDDEN = (".", "~$")
"""How the names of hidden files begin; Word marks open files with the second."""


@dataclass
class AddResult:
    """What one call of :meth:`diekae.store.KnowledgeStore.add` did."""

    ids: list[str] = field(default_factory=list)
    """Ids of all documents that were given, in order, each once."""
    prepared: list[str] = field(default_factory=list)
    """Ids of those that were prepared now."""
    unchanged: int = 0
    """How many files have not changed since they were last added, and were not read."""
    gone: list[str] = field(default_factory=list)
    """Files below the given folders that are in the store, but no longer exist. Files that cannot be read are not among
    them, nor are renamed files, whose text is now in another file of the store."""
    failed: list[tuple[str, str]] = field(default_factory=list)
    """Files of the given folders that could not be read, each with the reason."""
    skipped: list[str] = field(default_factory=list)
    """Files of the given folders that are of an unknown kind, and links that lead out of the folder."""


class Input(NamedTuple):
    """One text or file to be added."""

    content: str | Path
    """The text, or the file's absolute path."""
    explicit: bool
    """Whether the caller named it. A file of a folder that cannot be read is reported; one that was named raises."""


class FolderContents(NamedTuple):
    """The files below a folder."""

    readable: list[Path]
    """Files of the kinds in `READERS`, sorted."""
    skipped: list[Path]
    """Files of other kinds, links that lead out of the folder, and folders that cannot be listed; sorted."""


def expand(
    documents: Sequence[str | Path], paths_below: Callable[[Path], Iterable[str]], result: AddResult
) -> list[Input]:
    """Return the texts (`str`) and files to add, with the files of folders in place of the folders.

    Files below a folder that are skipped or gone, of those that ``paths_below`` knows in the store, are added to the
    result.

    Raises:
        ValueError: A text is blank, names a file or folder, or holds a lone surrogate; or a name is not UTF-8, or can
            be that of no file.
        FileNotFoundError: A file or folder does not exist.
        TypeError: A document is neither a text nor a path.
    """
    inputs: list[Input] = []
    for document in documents:
        if isinstance(document, str):
            _check_text(document)
            inputs.append(Input(document, True))
            continue
        if not isinstance(document, os.PathLike):
            raise TypeError(f"a document is {document!r}; expected a text (str), or a file or folder (Path).")
        path = Path(os.path.realpath(as_path(document)))
        if not path.exists():
            raise FileNotFoundError(f"nothing at {str(document)!r}; expected a file or a folder of documents.")
        if not path.is_dir():
            check_name(path)
            inputs.append(Input(path, True))
            continue
        contents = find_documents(path)
        inputs += [Input(file, False) for file in contents.readable]
        result.skipped = list(dict.fromkeys([*result.skipped, *map(printable, contents.skipped)]))
        present = {str(file) for file in contents.readable}
        result.gone += [name for name in paths_below(path) if name not in present and is_gone(name)]
    return inputs


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


def title_of(text: str) -> str:
    """Return the beginning of a text's first line."""
    line = next(line.strip() for line in text.splitlines() if line.strip())
    line = line.lstrip("#").strip() or line  # without Markdown's mark of a heading
    return line if len(line) <= LONGEST_TITLE else line[: LONGEST_TITLE - 1] + "…"


def is_gone(path: str) -> bool:
    """Tell whether a file is no longer there; a folder that cannot be read may still hold it."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):
        return False
    return False


def settled_state(path: Path) -> FileState:
    """Return a file's state, such that any later change of the file gives another state.

    File systems count time in steps. A file that was changed just now could change again within the same step, so this
    function waits for one step.
    """
    state = FileState.of(path.stat())
    if 0 <= time.time_ns() - state.changed < STEP:
        time.sleep(STEP / 1e9)
        state = FileState.of(path.stat())
    return state


def check_name(path: Path) -> None:
    """Refuse a file whose name the catalogue cannot keep, because it is not UTF-8, by a ValueError."""
    if printable(path) != str(path):
        raise ValueError(f"{printable(path)!r} has a name that is not UTF-8; rename the file or folder.")


def _check_text(text: str) -> None:
    """Refuse a blank text, and the name of a file, which would silently become a document of one word."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"a text holds half of a character ({text[error.start]!r} at {error.start}), which no file can hold; "
            "repair it where it comes from, or give text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')."
        ) from error
    if not text.strip():
        raise ValueError(f"a text is empty ({text!r}); give a document as str, or a file as Path.")
    path = existing_path(text)
    if path is not None:
        kind = "folder" if path.is_dir() else "file"
        raise ValueError(
            f"{text!r} is a text, and a {kind} of that name exists; to add the {kind}, give Path({text!r}). If these "
            "words are meant as a document, end them with a line break."
        )
