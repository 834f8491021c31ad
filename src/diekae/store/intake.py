"""What is added to a store: texts, files and the files of folders, and what became of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from diekae.files import place_named
from diekae.store.catalogue import DocumentSource
from diekae.store.readers import find_documents

LONGEST_TITLE = 60
"""Most characters of a title that is taken from the text."""


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
    """Files below the given folders that are in the store and no longer on disk."""
    failed: list[tuple[str, str]] = field(default_factory=list)
    """Files of the given folders that could not be read, each with the reason."""
    skipped: list[str] = field(default_factory=list)
    """Files of the given folders that are of another kind, and links that lead out of the folder."""


class Input(NamedTuple):
    """One text or file to be added."""

    content: str | Path
    """The text, or the file's absolute path."""
    explicit: bool
    """Whether the caller named it. A file of a folder that cannot be read is reported; one that was named raises."""


def document_id(text: str) -> str:
    """Return the id of a text: its SHA-256, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def expand(documents: Sequence[str | Path], sources: dict[str, DocumentSource], result: AddResult) -> list[Input]:
    """Return the texts and files to add, with the files of folders in place of the folders.

    Args:
        documents: Texts (`str`), and files and folders (`Path`).
        sources: The store's files, by path.
        result: Takes what is skipped or gone in the folders.

    Raises:
        ValueError: A text is blank, or names a file or folder.
        FileNotFoundError: A file or folder does not exist.
    """
    inputs: list[Input] = []
    for document in documents:
        if isinstance(document, str):
            _check_text(document)
            inputs.append(Input(document, True))
            continue
        path = document.resolve()
        if not path.exists():
            raise FileNotFoundError(f"nothing at {str(document)!r}; expected a file or a folder of documents.")
        if not path.is_dir():
            inputs.append(Input(path, True))
            continue
        contents = find_documents(path)
        inputs += [Input(file, False) for file in contents.readable]
        result.skipped = list(dict.fromkeys([*result.skipped, *map(str, contents.skipped)]))
        present = {str(file) for file in contents.readable}
        result.gone += sorted(name for name in sources if Path(name).is_relative_to(path) and name not in present)
    return inputs


def title_of(text: str) -> str:
    """Return the beginning of a text's first line."""
    line = next(line.strip() for line in text.splitlines() if line.strip())
    line = line.lstrip("#").strip() or line  # without Markdown's mark of a heading
    return line if len(line) <= LONGEST_TITLE else line[: LONGEST_TITLE - 1] + "…"


def _check_text(text: str) -> None:
    """Check that a text is one: a path given as `str` would silently become a document of one word."""
    if not text.strip():
        raise ValueError(f"a text is empty ({text!r}); give a document as str, or a file as Path.")
    path = place_named(text)
    if path is not None:
        kind = "folder" if path.is_dir() else "file"
        raise ValueError(
            f"{text!r} is a text, and a {kind} of that name exists; to add the {kind}, give Path({text!r}). If these "
            "words are meant as a document, end them with a line break."
        )
