"""The catalogue's tables of documents, and of the files that hold their texts."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from diekae.store.catalogue.database import CatalogueDatabase
from diekae.store.catalogue.passages import IndexedPassage, PassageTable

_SELECT = """
SELECT d.id, d.title, length(d.text), m.slots, m.bytes, m.precision,
    (SELECT group_concat(place, char(10)) FROM sources WHERE document = d.id AND place != d.id)
FROM documents d LEFT JOIN memories m ON m.document = d.id AND m.bank = ?
"""


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
    size: int = 0
    """Bytes of the file."""
    modified: int = 0
    """When the file was last modified, in nanoseconds."""


class DocumentTable:
    """Documents and their sources. A document stays as long as it has a source."""

    def __init__(self, database: CatalogueDatabase, passages: PassageTable) -> None:
        """Use the tables of this database."""
        self._database, self._passages = database, passages

    def select(self, bank: str = "", ids: Sequence[str] | None = None) -> list[StoredDocument]:
        """Return all documents, or those of the given ids, in the order they were added.

        Args:
            bank: Whose prepared knowledge `slots`, `bytes` and `precision` describe.
            ids: Whole ids.
        """
        where = "" if ids is None else f"WHERE d.id IN ({','.join('?' * len(ids))})"
        with self._database.reading() as connection:
            rows = connection.execute(f"{_SELECT} {where} ORDER BY d.number", (bank, *(ids or ())))
            return [
                StoredDocument(id, title, length, slots, size, precision, tuple(paths.split("\n")) if paths else ())
                for id, title, length, slots, size, precision, paths in rows
            ]

    def count(self) -> int:
        """Return how many documents there are."""
        with self._database.reading() as connection:
            return int(connection.execute("SELECT count(*) FROM documents").fetchone()[0])

    def find(self, name: str) -> str:
        """Return the id of the document with this id, file, title, or beginning of an id.

        Raises:
            ValueError: No document, or several, have that name.
        """
        id_beginning = f"{name}*" if re.fullmatch("[0-9a-f]{4,}", name) else None
        queries = (
            ("SELECT id FROM documents WHERE id = ?", name),
            ("SELECT document FROM sources WHERE place = ?", str(Path(name).resolve())),
            ("SELECT id FROM documents WHERE title = ?", name),
            ("SELECT id FROM documents WHERE id GLOB ?", id_beginning),
        )
        with self._database.reading() as connection:
            for query, value in queries:
                ids = [str(row[0]) for row in connection.execute(query, (value,))]
                if len(ids) > 1:
                    raise ValueError(f"{name!r} names {len(ids)} documents; give more of the id: {ids}.")
                if ids:
                    return ids[0]
        raise ValueError(
            f"the store has no document {name!r}; expected an id, at least four characters of its beginning, a file or "
            "a title, as `diekae knowledge list` shows them."
        )

    def text(self, document: str) -> str:
        """Return a document's text.

        Raises:
            ValueError: The document has been removed.
        """
        with self._database.reading() as connection:
            row = connection.execute("SELECT text FROM documents WHERE id = ?", (document,)).fetchone()
        if row is None:
            raise ValueError(f"document {document[:12]} is no longer in {str(self._database.path)!r}; search again.")
        return str(row[0])

    def contains(self, document: str) -> bool:
        """Tell whether there is a document of that id."""
        with self._database.reading() as connection:
            return connection.execute("SELECT 1 FROM documents WHERE id = ?", (document,)).fetchone() is not None

    def sources(self) -> dict[str, DocumentSource]:
        """Return the sources that are files, by path."""
        query = "SELECT place, document, size, changed FROM sources WHERE place != document"
        with self._database.reading() as connection:
            return {row[0]: DocumentSource(*row) for row in connection.execute(query)}

    def put(
        self, source: DocumentSource, title: str, text: str, passages: Sequence[IndexedPassage] | None
    ) -> list[str] | None:
        """Add a source, and its document if it is new; a source that held another text before lets go of it.

        Args:
            source: Where the text came from.
            title: Title of the document.
            text: The document.
            passages: What a new document is found by.

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
                values = (source.document, title, text)
                done = connection.execute("INSERT INTO documents(id, title, text) VALUES (?, ?, ?)", values)
                assert done.lastrowid is not None
                self._passages.insert(done.lastrowid, passages)
            connection.execute("INSERT OR REPLACE INTO sources VALUES (?, ?, ?, ?)", source)
            return self._delete_if_unused(connection, row[0]) if row is not None else []

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
