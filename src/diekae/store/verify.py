"""Is every memory what its row says, and does every file have a row?"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from diekae.store.catalogue import Catalogue, Prepared


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong in a store."""

    kind: str
    """``orphan`` (a file without a row, as a kill leaves it), ``missing`` (a row without its file), ``damaged`` (the
    file is not the one that was written) or ``index`` (the question index does not fit the texts)."""
    file: str
    """Path in the store's folder."""
    document: str | None
    """The document whose memory is concerned."""
    repaired: bool
    """Whether it was removed; a document stays, and is prepared anew when it is next needed."""


def find_faults(
    folder: Path, catalogue: Catalogue, *, repair: bool, progress: Callable[[str, int, int], None]
) -> list[Fault]:
    """Compare files with rows; see :meth:`diekae.store.KnowledgeStore.verify`."""
    faults = []
    rows = catalogue.prepared()
    for number, row in enumerate(rows):
        kind = _fault(folder, row)
        if kind is not None and row in catalogue.prepared(row.bank, row.document):  # not removed meanwhile
            if repair:
                _forget(folder, catalogue, row)
            faults.append(Fault(kind, row.file, row.document, repair))
        progress("verifying", number + 1, len(rows))
    faults += _orphans(folder, catalogue, repair)
    if not _index_fits(catalogue, repair):
        faults.append(Fault("index", catalogue.path.name, None, repair))
    return faults


def _fault(folder: Path, row: Prepared) -> str | None:
    """Say what is wrong with one memory."""
    path = folder / row.file
    try:
        with open(path, "rb") as file:
            same = path.stat().st_size == row.bytes and hashlib.file_digest(file, "sha256").hexdigest() == row.sha256
    except FileNotFoundError:
        return "missing"
    return None if same else "damaged"


def _forget(folder: Path, catalogue: Catalogue, row: Prepared) -> None:
    with catalogue.writing() as connection:
        connection.execute("DELETE FROM memories WHERE file = ?", (row.file,))
    (folder / row.file).unlink(missing_ok=True)


def _orphans(folder: Path, catalogue: Catalogue, repair: bool) -> list[Fault]:
    """Find files that no row names: whole ones, and what was being written when a process was killed."""
    # As the only writer: whoever writes a file holds the catalogue until its row is there.
    with catalogue.writing() as connection:
        named = {row[0] for row in connection.execute("SELECT file FROM memories")}
        files = (path for path in (folder / "memories").rglob("*") if path.is_file())
        orphans = sorted(name for path in files if (name := path.relative_to(folder).as_posix()) not in named)
        if repair:
            for name in orphans:
                (folder / name).unlink(missing_ok=True)
    return [Fault("orphan", name, None, repair) for name in orphans]


def _index_fits(catalogue: Catalogue, repair: bool) -> bool:
    """Let SQLite compare its index with the texts, and rebuild it if asked."""
    with catalogue.writing() as connection:
        try:
            connection.execute("INSERT INTO terms(terms, rank) VALUES ('integrity-check', 1)")
        except sqlite3.DatabaseError:
            if repair:
                connection.execute("INSERT INTO terms(terms) VALUES ('rebuild')")
            return False
    return True
