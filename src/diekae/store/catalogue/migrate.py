"""Turns a catalogue of layout 2 into one of layout 3, in the transaction of the caller.

Layout 3 adds digests of rows, lengths of texts, more of the state of files, and two indexes. The words of the full-text
index are rebuilt, because layout 2 lacks the last characters of Chinese, Japanese and Korean words.
"""

from __future__ import annotations

import sqlite3

from diekae.store.catalogue.tables import COLUMNS, INDEXES_OF_LAYOUT_3, MARKS, write_digest
from diekae.store.words import passage_words

_NEW_COLUMNS = (
    "documents ADD COLUMN characters INTEGER NOT NULL DEFAULT 0",
    "sources ADD COLUMN status INTEGER NOT NULL DEFAULT 0",
    "sources ADD COLUMN inode INTEGER NOT NULL DEFAULT 0",
    *(f"{table} ADD COLUMN digest BLOB" for table in COLUMNS),
)


def add_layout_3(connection: sqlite3.Connection) -> None:
    """Add what layout 2 lacks."""
    for column in _NEW_COLUMNS:
        connection.execute(f"ALTER TABLE {column}")
    for statement in INDEXES_OF_LAYOUT_3:
        connection.execute(statement)
    for (number,) in connection.execute("SELECT number FROM documents").fetchall():
        title, text = connection.execute("SELECT title, text FROM documents WHERE number = ?", (number,)).fetchone()
        connection.execute("UPDATE documents SET characters = ? WHERE number = ?", (len(text), number))
        query = "SELECT number, start, end, heading FROM passages WHERE document = ? ORDER BY number"
        passages = connection.execute(query, (number,)).fetchall()
        for passage, start, end, heading in passages:
            beginning = text[passages[0][1] : passages[0][2]]
            words = passage_words(title, beginning, heading, text[start:end])
            connection.execute("UPDATE terms SET words = ? WHERE rowid = ?", (words, passage))
    for table in COLUMNS:
        write_digest(connection, table)
    for statement in MARKS:
        connection.execute(statement)
