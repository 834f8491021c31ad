"""Whether the catalogue is whole: the file's structure, texts by their ids, rows by digests, the index by texts."""

import hashlib
import sqlite3
from typing import Literal, NamedTuple

from diekae.store.catalogue.database import CatalogueDatabase
from diekae.store.catalogue.tables import is_whole
from diekae.store.words import passage_words

_ORPHANS = (
    "passages WHERE document NOT IN (SELECT number FROM documents)",
    "terms WHERE rowid NOT IN (SELECT number FROM passages)",
)
"""Rows that belong to nothing, in the order in which they can be deleted."""


class DocumentHealth(NamedTuple):
    """What is wrong with one document."""

    id: str
    """Id of the document."""
    fault: Literal["text", "title", "index"] | None
    """What is damaged: the text, the title, or the passages with their words; None if nothing is."""


class CatalogueHealth:
    """Checks the catalogue."""

    def __init__(self, database: CatalogueDatabase) -> None:
        self._database = database

    def structure(self) -> str | None:
        """Return what SQLite finds wrong with the file, or with references between tables; None if nothing."""
        with self._database.reading() as connection:
            try:
                messages = [str(row[0]) for row in connection.execute("PRAGMA integrity_check")]
                messages += [
                    f"a row of {row[0]} has no document" for row in connection.execute("PRAGMA foreign_key_check")
                ]
            except sqlite3.DatabaseError as error:
                return str(error)
        # Some versions of SQLite report the full-text index here too; it can be mended, see `index_is_whole`.
        return next((message for message in messages if message != "ok" and "fts5" not in message.lower()), None)

    def numbers(self) -> list[int]:
        """Return the numbers of all documents."""
        return [row[0] for row in self._database.rows("SELECT number FROM documents ORDER BY number")]

    def check(self, number: int) -> DocumentHealth | None:
        """Compare a document's text with its id, and its index with its text; None if it has been removed."""
        query = f"SELECT id, title, CAST(text AS BLOB), {is_whole('documents')} FROM documents WHERE number = ?"
        with self._database.reading() as connection:
            row = connection.execute(query, (number,)).fetchone()
            if row is None:
                return None
            id, title, data, title_is_whole = row
            query = f"""SELECT start, end, heading, {is_whole("passages", "p")}, words
                FROM passages p LEFT JOIN terms ON terms.rowid = p.number WHERE document = ? ORDER BY p.number"""
            passages = connection.execute(query, (number,)).fetchall()
        if hashlib.sha256(data).hexdigest() != id:
            return DocumentHealth(id, "text")
        if not title_is_whole:
            return DocumentHealth(id, "title")
        text = data.decode()
        beginning = text[passages[0][0] : passages[0][1]] if passages else ""
        index_is_whole = bool(passages) and all(
            whole and words == passage_words(title, beginning, heading, text[start:end])
            for start, end, heading, whole, words in passages
        )
        return DocumentHealth(id, None if index_is_whole else "index")

    def words_are_whole(self, *, repair: bool) -> bool:
        """Tell whether the full-text index fits its words, by SQLite's own check, and belongs to documents.

        With ``repair`` it is rebuilt if it does not.
        """
        with self._database.reading() as connection:
            orphans = any(connection.execute(f"SELECT 1 FROM {rows} LIMIT 1").fetchone() for rows in _ORPHANS)
        if self._database.read_only:  # SQLite's own check needs a file that can be written
            return not orphans
        with self._database.writing() as connection:
            try:
                connection.execute("INSERT INTO terms(terms, rank) VALUES ('integrity-check', 1)")
            except sqlite3.DatabaseError:
                orphans = True
            if orphans and repair:
                for rows in _ORPHANS:
                    connection.execute(f"DELETE FROM {rows}")
                connection.execute("INSERT INTO terms(terms) VALUES ('rebuild')")
        return not orphans
