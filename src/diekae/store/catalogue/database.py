"""The catalogue's file: its tables, and its connections, one for each thread."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diekae.sqlite import open_database, sqlite_errors, transaction

LAYOUT = 2
"""Version of the tables, kept in the file as `user_version`."""

# "memories" are files of prepared knowledge. A "place" is a file's path, or the id of a document given as a text.
# These names are older than the words of the code, and renaming them would need a new layout.
_TABLES = """
CREATE TABLE documents (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, title TEXT NOT NULL, text TEXT NOT NULL
);
CREATE TABLE passages (
    number INTEGER PRIMARY KEY AUTOINCREMENT, document INTEGER NOT NULL, start INTEGER NOT NULL, end INTEGER NOT NULL,
    heading TEXT NOT NULL, vector BLOB NOT NULL
);
CREATE INDEX passages_of ON passages(document);
CREATE VIRTUAL TABLE terms USING fts5(
    words, tokenize = "porter unicode61 remove_diacritics 0 categories 'L* N* Co M*'"
);
CREATE TABLE sources (
    place TEXT PRIMARY KEY, document TEXT NOT NULL REFERENCES documents(id) ON DELETE CASCADE,
    size INTEGER NOT NULL, changed INTEGER NOT NULL
);
CREATE INDEX sources_of ON sources(document);
CREATE TABLE memories (
    document TEXT NOT NULL REFERENCES documents(id) ON DELETE CASCADE, bank TEXT NOT NULL, file TEXT NOT NULL UNIQUE,
    sha256 TEXT NOT NULL, bytes INTEGER NOT NULL, slots INTEGER NOT NULL, precision TEXT NOT NULL,
    PRIMARY KEY (document, bank)
);
"""


class CatalogueDatabase:
    """Transactions on the catalogue's tables, for any number of threads and processes."""

    def __init__(self, path: Path) -> None:
        """Open the file, or create it with its tables.

        Raises:
            ValueError: The file is not a catalogue, is damaged, or has the layout of another version.
            OSError: The file cannot be opened or written.
        """
        self.path = path
        self._local = threading.local()
        path.parent.mkdir(parents=True, exist_ok=True)
        with self.reading() as connection:
            layout = _layout(connection)
        if layout > LAYOUT:
            raise ValueError(f"{str(path)!r} has layout {layout}, newer than {LAYOUT}; update diekae to read it.")
        if 0 < layout < LAYOUT:
            raise ValueError(
                f"{str(path)!r} has layout {layout}, which has no passages (now {LAYOUT}); add the documents to a new "
                "store."
            )
        if layout == 0:
            self._create_tables()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Read one state of the catalogue, whatever others write meanwhile."""
        with self._transaction(write=False) as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Write as the only writer: all of the block is kept, or nothing. Blocks inside this one join it."""
        with self._transaction(write=True) as connection:
            yield connection

    def close(self) -> None:
        """Close this thread's connection."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
            self._local.connection = None

    @contextmanager
    def _transaction(self, *, write: bool) -> Iterator[sqlite3.Connection]:
        remedy = "restore it from a copy, or add the documents to a new store"
        with sqlite_errors(repr(str(self.path)), "a catalogue", remedy):
            connection = self._connection()
            with transaction(connection, write=write):
                yield connection

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = open_database(self.path, synchronous="NORMAL")
            connection.execute("PRAGMA foreign_keys = ON")
            self._local.connection = connection
        return connection

    def _create_tables(self) -> None:
        with self.writing() as connection:
            if _layout(connection) == 0:  # no other process was faster
                for statement in _TABLES.split(";")[:-1]:
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {LAYOUT}")


def _layout(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])
