"""Checks that each row of the catalogue has its file of prepared knowledge, unchanged, and each file its row."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from diekae.progress import Progress
from diekae.store.catalogue import Catalogue, PreparedFile
from diekae.store.layout import PREPARED


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong in a store."""

    kind: str
    """``orphan`` (a file without a row, as a kill may leave it), ``missing`` (a row without its file), ``damaged`` (the
    file is not the one that was written) or ``index`` (the full-text index does not fit the texts)."""
    file: str
    """Path in the store's folder."""
    document: str | None
    """The document of the file; None for an orphan and for the index."""
    repaired: bool
    """Whether it was repaired. A document always stays, and is prepared again when it is next needed."""


def find_faults(folder: Path, catalogue: Catalogue, *, repair: bool, progress: Progress) -> list[Fault]:
    """Compare files with rows; see :meth:`diekae.store.KnowledgeStore.verify`."""
    faults = []
    files = catalogue.prepared_files.select()
    for number, file in enumerate(files):
        kind = _fault_kind(folder, file)
        # A row that is gone by now was removed while its file was checked.
        if kind is not None and file in catalogue.prepared_files.select(file.bank, file.document):
            if repair:
                catalogue.prepared_files.delete(file)
                (folder / file.file).unlink(missing_ok=True)
            faults.append(Fault(kind, file.file, file.document, repair))
        progress("verifying", number + 1, len(files))
    faults += _orphans(folder, catalogue, repair)
    if not catalogue.passages.words_are_whole(repair=repair):
        faults.append(Fault("index", catalogue.path.name, None, repair))
    return faults


def _fault_kind(folder: Path, file: PreparedFile) -> str | None:
    """Return what is wrong with one file, or None."""
    path = folder / file.file
    try:
        with open(path, "rb") as content:
            whole = path.stat().st_size == file.bytes
            whole = whole and hashlib.file_digest(content, "sha256").hexdigest() == file.sha256
    except FileNotFoundError:
        return "missing"
    return None if whole else "damaged"


def _orphans(folder: Path, catalogue: Catalogue, repair: bool) -> list[Fault]:
    """Find the files without a row: whole ones, and those whose writing was cut off."""
    # As the only writer: a process that writes a file stays the writer until the file has its row.
    with catalogue.writing():
        listed = {file.file for file in catalogue.prepared_files.select()}
        paths = (path for path in (folder / PREPARED).rglob("*") if path.is_file())
        orphans = sorted(name for path in paths if (name := path.relative_to(folder).as_posix()) not in listed)
        if repair:
            for name in orphans:
                (folder / name).unlink(missing_ok=True)
    return [Fault("orphan", name, None, repair) for name in orphans]
