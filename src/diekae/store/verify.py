"""Checks a store: files of prepared knowledge against their rows, texts against their ids, the index against texts."""

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from diekae.progress import Progress
from diekae.store.catalogue import Catalogue, DocumentHealth, IndexedPassage, PreparedFile
from diekae.store.intake import title_of
from diekae.store.layout import PREPARED, path_in_store

PATIENCE = 2.0
"""Seconds after which a file without a row counts as left behind, and not as one that is being removed."""
Index = Callable[[str, str], list[IndexedPassage]]
"""Makes the passages of a document, from its title and its text."""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong in a store."""

    kind: str
    """What is wrong.

    ``orphan``: a file without a row, as a kill may leave it. ``missing``: a row without its file. ``damaged``: a file
    or its row is not the one that was written. ``link``: a link inside the store, or a row that names a file elsewhere;
    nothing is read or deleted there. ``text``: a text is not the one that was added. ``index``: the search index does
    not fit the text of a document. ``catalogue``: the file of the catalogue is damaged elsewhere.
    """
    file: str
    """Path in the store's folder."""
    document: str | None
    """The document; None if the fault is of no document (an orphan) or of all."""
    repaired: bool
    """Whether it was repaired. A document always stays, and is prepared again when it is next needed. A damaged text
    and a damaged catalogue are not repaired: remove the document and add it again, or restore a copy of the store."""


def find_faults(folder: Path, catalogue: Catalogue, index: Index, *, repair: bool, progress: Progress) -> list[Fault]:
    """Find what is wrong; see :meth:`diekae.store.KnowledgeStore.verify`."""
    faults = []
    files = catalogue.prepared_files.all()
    for number, (file, row_is_whole) in enumerate(files.items()):
        kind = _fault_kind(folder, file, row_is_whole)
        # A row that is gone by now was removed while its file was checked.
        if kind is not None and catalogue.prepared_files.contains(file):
            if repair:
                catalogue.prepared_files.delete(file)
                if kind != "link" and not (path := path_in_store(folder, file.file)).is_dir():
                    path.unlink(missing_ok=True)
            faults.append(Fault(kind, file.file, file.document, repair))
        progress("verifying", number + 1, len(files))
    faults += _orphans(folder, catalogue, repair)
    return faults + _catalogue_faults(catalogue, index, repair, progress)


def _fault_kind(folder: Path, file: PreparedFile, row_is_whole: bool) -> str | None:
    """Return what is wrong with one file, or None."""
    try:
        path = path_in_store(folder, file.file)
    except ValueError:
        return "link"
    if not path.is_file():
        return "missing"
    try:
        with open(path, "rb") as content:
            whole = row_is_whole and path.stat().st_size == file.bytes
            whole = whole and hashlib.file_digest(content, "sha256").hexdigest() == file.sha256
    except FileNotFoundError:
        return "missing"
    return None if whole else "damaged"


def _orphans(folder: Path, catalogue: Catalogue, repair: bool) -> list[Fault]:
    """Find the files without a row: whole ones, and those whose writing was cut off; and links."""
    if (folder / PREPARED).is_symlink():
        return [Fault("link", PREPARED, None, False)]
    # As the only writer: a process that writes a file stays the writer until the file has its row.
    with catalogue.writing() if repair or not catalogue.read_only else catalogue.reading():
        listed = {file.file for file in catalogue.prepared_files.all()}
        kinds: dict[str, str] = {}
        for parent, folders, files in os.walk(folder / PREPARED):  # does not follow links
            for name in (*folders, *files):
                path = Path(parent, name)
                if path.is_symlink():
                    kinds[path.relative_to(folder).as_posix()] = "link"
                elif name in files and (file := path.relative_to(folder).as_posix()) not in listed:
                    kinds[file] = "orphan"
    # A process that removes a document deletes its row, then its files. Names are never used twice, so a file that is
    # still there afterwards stays without a row.
    end = time.monotonic() + PATIENCE
    while (there := sorted(file for file in kinds if os.path.lexists(folder / file))) and time.monotonic() < end:
        time.sleep(PATIENCE / 20)
    for file in there if repair else ():
        (folder / file).unlink(missing_ok=True)  # of a link, only the link itself
    return [Fault(kinds[file], file, None, repair) for file in there]


def _catalogue_faults(catalogue: Catalogue, index: Index, repair: bool, progress: Progress) -> list[Fault]:
    """Find what is wrong in the catalogue itself."""
    name = catalogue.path.name
    if catalogue.health.structure() is not None:
        return [Fault("catalogue", name, None, False)]
    faults, numbers = [], catalogue.health.numbers()
    words_are_whole = catalogue.health.words_are_whole(repair=repair)
    for step, number in enumerate(numbers):
        health = catalogue.health.check(number)
        if health is not None and health.fault == "text":
            faults.append(Fault("text", name, health.id, False))
        elif health is not None and health.fault:
            if repair:
                _index_again(catalogue, health, index)
            faults.append(Fault("index", name, health.id, repair))
        progress("verifying texts", step + 1, len(numbers))
    return faults if words_are_whole else [*faults, Fault("index", name, None, repair)]


def _index_again(catalogue: Catalogue, health: DocumentHealth, index: Index) -> None:
    """Rebuild a document's index. A damaged title is replaced by the name of its file, or by its first line."""
    table = catalogue.documents
    with catalogue.writing():
        text = table.text(health.id)
        title = table.select(ids=[health.id])[0].title if health.fault == "index" else None
        if title is None:
            names = [Path(source.path).name for source in table.sources_of(health.id, 1) if source.is_file]
            title = names[0] if names else title_of(text)
        table.index_again(health.id, title, index(title, text))
