"""What is added to a store: texts, files and folders, and what became of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from diekae.files import place_named
from diekae.store.readers import find_documents

TITLE = 60
"""Most characters of a title that is taken from the text."""


@dataclass
class Added:
    """What one call of :meth:`KnowledgeStore.add` did; ids of documents, or files."""

    ids: list[str] = field(default_factory=list)
    """Every document that was named, in order, each once."""
    prepared: list[str] = field(default_factory=list)
    """Those whose memory was made now."""
    unchanged: int = 0
    """Files that are as they were when they were last added, and were not read."""
    gone: list[str] = field(default_factory=list)
    """Files below the folder that are in the store and no longer on disk."""
    failed: list[tuple[str, str]] = field(default_factory=list)
    """Files of a folder that could not be read, and why."""
    skipped: list[str] = field(default_factory=list)
    """Files of a folder that are of no kind that can be read, and links that lead out of it."""


def document_id(text: str) -> str:
    """Return the id of a text: its SHA-256, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def places_of(
    given: Sequence[str | Path], known: dict[str, tuple[str, int, int]], added: Added
) -> list[tuple[str | Path, bool]]:
    """Return the texts and files that are named, or lie in a named folder, and whether they were named.

    Files that are known below such a folder and no longer there are noted, and those that are skipped.

    Raises:
        ValueError: A text is blank, or names a file or folder.
        FileNotFoundError: A file or folder is not there.
    """
    places: list[tuple[str | Path, bool]] = []
    for entry in given:
        if isinstance(entry, str):
            if not entry.strip():
                raise ValueError(f"a text is empty ({entry!r}); give a document as str, or a file as Path.")
            if (path := place_named(entry)) is not None:
                what = "folder" if path.is_dir() else "file"
                raise ValueError(
                    f"{entry!r} is a text, and a {what} of that name exists; to add the {what}, give Path({entry!r}). "
                    "If these words are meant as a document, end them with a line break."
                )
            places.append((entry, True))
            continue
        whole = entry.resolve()
        if not whole.exists():
            raise FileNotFoundError(f"nothing at {str(entry)!r}; expected a file or a folder of documents.")
        if not whole.is_dir():
            places.append((whole, True))
            continue
        found, skipped = find_documents(whole)
        here = {str(path) for path in found}
        added.skipped = list(dict.fromkeys([*added.skipped, *map(str, skipped)]))
        added.gone += sorted(name for name in known if Path(name).is_relative_to(whole) and name not in here)
        places += [(path, False) for path in found]
    return places


def title_of(text: str) -> str:
    """Return the beginning of the first line."""
    line = next(line.strip() for line in text.splitlines() if line.strip())
    line = line.lstrip("#").strip() or line  # Markdown's mark of a heading
    return line if len(line) <= TITLE else line[: TITLE - 1] + "…"
