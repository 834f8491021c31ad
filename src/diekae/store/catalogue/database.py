"""The catalogue's file: its connections, one for each thread, what is checked when it is opened, and its migration."""

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from diekae.files import written_whole
from diekae.sqlite import open_database, sqlite_errors, transaction
from diekae.store.catalogue.tables import (
    APPLICATION,
    COLUMNS,
    INDEXES_OF_LAYOUT_3,
    LAYOUT,
    MARKS,
    row_digest,
    tables_content,
    write_digest,
)
from diekae.store.layout import PREPARED
from diekae.store.words import passage_words

_REMEDY = "restore it from a copy, or add the documents to a new store"
_NEW_COLUMNS = (
    "documents ADD COLUMN characters INTEGER NOT NULL DEFAULT 0",
    "sources ADD COLUMN status INTEGER NOT NULL DEFAULT 0",
    "sources ADD COLUMN inode INTEGER NOT NULL DEFAULT 0",
    *(f"{table} ADD COLUMN digest BLOB" for table in COLUMNS),
)
"""What layout 3 added."""


class CatalogueDatabase:
    """Transactions on the catalogue's tables, for any number of threads and processes."""

    def __init__(self, path: Path) -> None:
        """Open the file, or create it with its tables.

        A file that cannot be written, or is in a folder that cannot, is opened for reading alone.

        Raises:
            ValueError: The file is not a catalogue, is damaged, or has the layout of another version.
            OSError: The file cannot be opened.
        """
        self.path = path
        self._local = threading.local()
        for ending in ("", "-wal", "-shm", "-journal"):  # SQLite writes into the files beside it without checking them
            part = path.with_name(path.name + ending)
            if part.is_symlink() or (part.exists() and not part.is_file()):
                raise ValueError(f"{str(part)!r} is a link or no file; a store holds no links. Name the real folder.")
        if not path.exists():
            self._create()
        self.read_only = not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK))
        if self._layout() == 2:
            self._migrate()

    def __getstate__(self) -> NoReturn:
        """Refuse to be copied or pickled, and with it the store, by a ValueError."""
        raise ValueError(
            "a store cannot be copied or pickled, because its catalogue is an open file; open it again where it is "
            "needed: KnowledgeStore(folder, model)."
        )

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Read one state of the catalogue, whatever others write meanwhile."""
        with self._transaction(write=False) as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Write as the only writer (OSError): all of the block is kept, or nothing. Blocks inside this one join it."""
        if self.read_only:
            raise OSError(f"{str(self.path)!r} cannot be written; copy the store to a folder where you may write.")
        with self._transaction(write=True) as connection:
            yield connection

    def rows(self, query: str, *values: object) -> list[Any]:
        """Return the rows of one query that reads."""
        with self.reading() as connection:
            return connection.execute(query, values).fetchall()

    def close(self) -> None:
        """Close this thread's connection."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
            self._local.connection = None

    def check_rows(self, whole: bool, what: str) -> None:
        """Raise a ValueError that names the row, unless it is whole, that is, matches its digest."""
        if not whole:
            raise ValueError(
                f"{what} in {str(self.path)!r} is damaged; `diekae knowledge verify --repair` shows what can be "
                "mended, or restore the store from a copy."
            )

    @contextmanager
    def _transaction(self, *, write: bool) -> Iterator[sqlite3.Connection]:
        with sqlite_errors(repr(str(self.path)), "a catalogue", _REMEDY):
            connection = self._connection()
            with transaction(connection, write=write):
                yield connection

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None or self._local.process != os.getpid():
            # A forked process must not use its parent's connection, nor close it: its locks and its transaction are
            # the parent's.
            self._local.inherited, self._local.process = connection, os.getpid()
            connection = open_database(self.path, read_only=self.read_only)
            connection.execute("PRAGMA foreign_keys = ON")
            connection.create_function("row_digest", -1, row_digest, deterministic=True)
            self._local.connection = connection
        return connection

    def _create(self) -> None:
        """Create the file with its tables, in one step: a kill leaves no empty file."""
        prepared = self.path.parent / PREPARED
        is_empty = not prepared.is_symlink() and not (prepared.is_dir() and any(prepared.iterdir()))
        if not is_empty and not self.path.exists():  # no other process has created it meanwhile
            raise ValueError(
                f"{str(self.path)!r} is missing, but its folder holds prepared knowledge in {PREPARED!r}; restore the "
                f"catalogue from a copy, or delete {PREPARED!r}."
            )
        with suppress(FileExistsError), written_whole(self.path, replace=False) as file:
            file.write(tables_content())

    def _layout(self) -> int:
        """Return the file's layout; nothing in a file that is not a catalogue is changed."""
        name = repr(str(self.path))
        with sqlite_errors(name, "a catalogue", _REMEDY):
            connection = open_database(self.path, read_only=True)
            try:
                application, layout = (
                    int(connection.execute(f"PRAGMA {pragma}").fetchone()[0])
                    for pragma in ("application_id", "user_version")
                )
                tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            finally:
                connection.close()
        older = application == 0 and layout in (1, 2) and "documents" in tables
        if application != APPLICATION and not older:
            raise ValueError(f"{name} is not a catalogue: it is empty, damaged, or of another program; {_REMEDY}.")
        if layout > LAYOUT:
            raise ValueError(f"{name} has layout {layout}, newer than {LAYOUT}; update diekae to read it.")
        if layout < 2:
            raise ValueError(
                f"{name} has layout {layout}, which has no passages (now {LAYOUT}); add the documents to a new store."
            )
        return layout

    def _migrate(self) -> None:
        if self.read_only:
            raise ValueError(
                f"{str(self.path)!r} has layout 2 (now {LAYOUT}) and cannot be written; copy the store to a folder "
                "where you may write, and open it there once."
            )
        with self.writing() as connection:
            if int(connection.execute("PRAGMA user_version").fetchone()[0]) == 2:  # no other process was faster
                add_layout_3(connection)


def add_layout_3(connection: sqlite3.Connection) -> None:
    """Turn a catalogue of layout 2 into one of layout 3, in the caller's transaction.

    Layout 3 adds digests of rows, lengths of texts, more of the state of files, and two indexes. The words of the
    full-text index are rebuilt: layout 2 lacks the last characters of Chinese, Japanese and Korean words.
    """
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
