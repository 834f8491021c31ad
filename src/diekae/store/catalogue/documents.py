"""The catalogue's tables of documents, and of the files that hold their texts."""

import hashlib
import json
import os
import re
import sqlite3
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from diekae.files import FileState
from diekae.store.catalogue.database import CatalogueDatabase
from diekae.store.catalogue.passages import IndexedPassage, PassageTable
from diekae.store.catalogue.tables import insert, is_whole, write_digest

_SELECT = f"""
SELECT d.number, d.id, d.title, d.characters, m.slots, m.bytes, m.precision,
    (SELECT json_group_array(place) FROM sources WHERE document = d.id AND place != d.id),
    {is_whole("documents", "d")} AND (m.document IS NULL OR {is_whole("memories", "m")})
FROM documents d LEFT JOIN memories m ON m.document = d.id AND m.bank = ?
"""
_AMONG = "d.id IN (SELECT value FROM json_each(?))"
_PAGE = 100
"""Documents that are read at once when all are listed."""
_ID = re.compile("[0-9a-f]{4,}")
_SOURCE = "SELECT place, document, size, changed, status, inode FROM sources"


@dataclass(frozen=True)
class StoredDocument:
    """One document of a store, without its text."""

    id: str
    """SHA-256 of the text, in hexadecimal. A unique beginning of it names the document too."""
    title: str
    """Name of its file, or the beginning of its first line."""
    characters: int
    """Length of the text."""
    slots: int | None
    """Slots of its prepared knowledge, about one a token; None if this bank has not prepared it yet."""
    bytes: int | None
    """Size of the file of its prepared knowledge."""
    precision: str | None
    """How the prepared knowledge is kept: ``exact``, ``bf16`` or ``int8``."""
    places: tuple[str, ...]
    """Files that hold the text; none if it was given as a text."""


class DocumentSource(NamedTuple):
    """Where a document's text came from."""

    path: str
    """The file; or the document's own id, if it was given as a text."""
    document: str
    """Id of the document."""
    state: FileState = FileState(0, 0, 0, 0)
    """State of the file before it was read; zeros for a text."""

    @property
    def is_file(self) -> bool:
        """Tell whether the text came from a file."""
        return self.path != self.document


def document_id(text: str) -> str:
    """Return the id of a text: its SHA-256, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


class DocumentTable:
    """Documents and their sources. A document stays as long as it has a source."""

    def __init__(self, database: CatalogueDatabase, passages: PassageTable) -> None:
        self._database, self._passages = database, passages

    def select(self, bank: str = "", ids: Sequence[str] | None = None) -> list[StoredDocument]:
        """Return all documents, or those of whole ids, in the order they were added, with what a bank has prepared."""
        if ids is None:
            return list(self._select(bank, "").values())
        return list(self._select(bank, f"WHERE {_AMONG}", json.dumps(list(ids))).values())

    def iterate(self, bank: str) -> Iterator[StoredDocument]:
        """Yield all documents, page by page; arguments and errors as for :meth:`select`."""
        number = 0
        while page := self._select(bank, "WHERE d.number > ?", number, most=_PAGE):
            number = max(page)
            yield from page.values()

    def _select(self, bank: str, where: str, *values: str | int, most: int = -1) -> dict[int, StoredDocument]:
        """Return documents by their numbers, in the order they were added."""
        query = f"{_SELECT} {where} ORDER BY d.number LIMIT ?"
        rows = self._database.rows(query, bank, *values, most)
        for row in rows:
            self._database.check_rows(row[-1], f"document {row[1][:12]}")
        return {
            number: StoredDocument(id, title, length, slots, size, precision, tuple(json.loads(paths)))
            for number, id, title, length, slots, size, precision, paths, _ in rows
        }

    def unprepared(self, bank: str, ids: Sequence[str] | None = None) -> dict[str, int]:
        """Return the documents that a bank has not prepared, of all or of the given ids: their lengths by their ids."""
        query = (
            "SELECT d.id, d.characters FROM documents d LEFT JOIN memories m ON m.document = d.id AND m.bank = ?"
            f" WHERE m.document IS NULL {'' if ids is None else f'AND {_AMONG}'} ORDER BY d.number"
        )
        return dict(self._database.rows(query, bank, *(() if ids is None else [json.dumps(list(ids))])))

    def count(self) -> int:
        """Return how many documents there are."""
        return int(self._database.rows("SELECT count(*) FROM documents")[0][0])

    def state(self) -> tuple[int, int]:
        """Return two numbers; at least one changes whenever a document is added or deleted."""
        ((count, newest),) = self._database.rows("SELECT count(*), max(number) FROM documents")
        return int(count), int(newest or 0)

    def find(self, name: str | Path) -> str:
        """Return the id of the document with this id, file, title, or beginning of an id (ValueError)."""
        if not isinstance(name, str | Path):
            raise TypeError(f"{name!r} names no document; expected an id, a file or a title.")
        name = str(name).encode("utf-8", "replace").decode()  # lone surrogates cannot be looked up
        # The same name may be written with composed or with decomposed accents, depending on the operating system.
        forms = [unicodedata.normalize(form, name) for form in ("NFC", "NFD")]
        paths = [os.path.realpath(form) for form in (name, *forms) if "\x00" not in form]
        queries = (
            ("SELECT id FROM documents WHERE id = ?", [name]),
            *(("SELECT document FROM sources WHERE place = ?", [path]) for path in paths),
            ("SELECT id FROM documents WHERE title IN (?, ?, ?)", [name, *forms]),
            ("SELECT id FROM documents WHERE id >= ?1 AND id < ?1 || 'g'", [name] if _ID.fullmatch(name) else [None]),
        )
        with self._database.reading() as connection:
            for query, values in queries:
                ids = [str(row[0]) for row in connection.execute(query, values)]
                if len(ids) > 1:
                    raise ValueError(f"{name!r} names {len(ids)} documents; give more of the id: {ids}.")
                if ids:
                    return ids[0]
        raise ValueError(
            f"the store has no document {name!r}; expected an id, at least four characters of its beginning, a file or "
            "a title, as `diekae knowledge list` shows them."
        )

    def text(self, document: str) -> str:
        """Return a document's text; ValueError if the document has been removed, or its text is damaged."""
        rows = self._database.rows("SELECT text FROM documents WHERE id = ?", document)
        if not rows:
            raise ValueError(f"document {document[:12]} is no longer in {str(self._database.path)!r}; search again.")
        self._database.check_rows(document_id(rows[0][0]) == document, f"the text of document {document[:12]}")
        return str(rows[0][0])

    def contains(self, document: str) -> bool:
        """Tell whether there is a document of that id."""
        return bool(self._database.rows("SELECT 1 FROM documents WHERE id = ?", document))

    def source(self, path: str) -> DocumentSource | None:
        """Return the source with a path; None if there is none."""
        return next(iter(self._sources("WHERE place = ?", path)), None)

    def sources_of(self, document: str, most: int) -> list[DocumentSource]:
        """Return the sources of a document, at most this many."""
        return self._sources("WHERE document = ? ORDER BY place LIMIT ?", document, most)

    def paths_below(self, folder: Path) -> list[str]:
        """Return the sources that are files below a folder, sorted by path."""
        beginning = str(folder).rstrip("/")
        sources = self._sources("WHERE place > ? || '/' AND place < ? || '0' ORDER BY place", beginning, beginning)
        return [source.path for source in sources]

    def _sources(self, condition: str, *values: str | int) -> list[DocumentSource]:
        rows = self._database.rows(f"{_SOURCE} {condition}", *values)
        return [DocumentSource(path, document, FileState(*state)) for path, document, *state in rows]

    def put(
        self, source: DocumentSource, title: str, text: str, passages: Sequence[IndexedPassage] | None
    ) -> list[str] | None:
        """Add a source, and its document if it is new. A source holds one document: it replaces an earlier one.

        Returns:
            Files of prepared knowledge whose document is gone, to be deleted now. None if the document is new and
            `passages` is None: then nothing was added.

        Raises:
            ValueError: The passages' vectors have other dimensions than those that are in the catalogue.
        """
        with self._database.writing() as connection:
            row = connection.execute("SELECT document FROM sources WHERE place = ?", (source.path,)).fetchone()
            if not self.contains(source.document):
                if passages is None:
                    return None
                query = """INSERT INTO documents(id, title, characters, text, digest)
                    VALUES (?1, ?2, ?3, ?4, row_digest(?1, ?2, ?3))"""
                done = connection.execute(query, (source.document, title, len(text), text))
                assert done.lastrowid is not None
                self._passages.insert(done.lastrowid, passages)
            connection.execute("DELETE FROM sources WHERE place = ?", (source.path,))
            connection.execute(insert("sources"), (source.path, source.document, *source.state))
            return self._delete_if_unused(connection, row[0]) if row is not None else []

    def index_again(self, document: str, title: str, passages: Sequence[IndexedPassage]) -> None:
        """Replace the title and the passages of a document."""
        with self._database.writing() as connection:
            query = "SELECT number, text FROM documents WHERE id = ?"
            number, text = connection.execute(query, (document,)).fetchone()
            self._passages.delete(document)
            self._passages.insert(number, passages)
            connection.execute(
                "UPDATE documents SET title = ?, characters = ? WHERE number = ?", (title, len(text), number)
            )
            write_digest(connection, "documents", "number = ?", number)

    def delete(self, document: str) -> list[str]:
        """Remove a document; returns its files of prepared knowledge, to be deleted now."""
        with self._database.writing() as connection:
            connection.execute("DELETE FROM sources WHERE document = ?", (document,))
            return self._delete_if_unused(connection, document)

    def delete_source(self, path: str) -> list[str]:
        """Remove a source, and its document if that has no other; returns files as :meth:`delete` does."""
        with self._database.writing() as connection:
            row = connection.execute("SELECT document FROM sources WHERE place = ?", (path,)).fetchone()
            connection.execute("DELETE FROM sources WHERE place = ?", (path,))
            return self._delete_if_unused(connection, row[0]) if row is not None else []

    def _delete_if_unused(self, connection: sqlite3.Connection, document: str) -> list[str]:
        """Remove a document that has no source; returns its files of prepared knowledge."""
        if connection.execute("SELECT 1 FROM sources WHERE document = ?", (document,)).fetchone() is not None:
            return []
        files = [row[0] for row in connection.execute("SELECT file FROM memories WHERE document = ?", (document,))]
        self._passages.delete(document)
        connection.execute("DELETE FROM documents WHERE id = ?", (document,))
        return files
