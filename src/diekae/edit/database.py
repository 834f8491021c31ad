"""The SQLite file that the store of edits is built on: tables, transactions, copies, and errors in plain words."""

import contextlib
import os
import secrets
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from diekae.edit.rows import UPGRADED_FORMAT, upgrade
from diekae.files import as_path, make_folder
from diekae.sqlite import open_database, sqlite_errors, transaction

FILE = "edits.sqlite"
FORMAT = 2
"""Version of the tables; `diekae.edit.rows.upgrade` brings those of version 1 to it."""
_TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE edits (id INTEGER PRIMARY KEY AUTOINCREMENT, fact TEXT NOT NULL, edit TEXT NOT NULL, digest TEXT NOT NULL,
    created TEXT NOT NULL, reverted INTEGER NOT NULL) STRICT;
CREATE INDEX by_fact ON edits (fact);
CREATE TABLE memories (id INTEGER PRIMARY KEY REFERENCES edits, data BLOB NOT NULL, digest TEXT NOT NULL) STRICT;
CREATE TABLE vectors (id INTEGER NOT NULL REFERENCES edits, gate TEXT NOT NULL, data BLOB NOT NULL,
    digest TEXT NOT NULL DEFAULT '', PRIMARY KEY (id, gate)) STRICT;
"""


class EditDatabase:
    """A connection to one SQLite file, or to a database in RAM.

    Threads may share it. The file is in write-ahead log mode, so that several processes may write to it. Where it
    cannot be written it can be read; only changing it is an error.
    """

    def __init__(self, folder: str | Path | None, decoder: str, bank: str) -> None:
        """Open the database in a folder, or create it; None keeps everything in RAM.

        Raises:
            OSError: The folder or file cannot be read, or must be created or upgraded and cannot be written.
            ValueError: The file belongs to another decoder or bank, by their fingerprints, has another format, or is
                damaged; or there can be no folder of that name.
        """
        self.folder = None if folder is None else as_path(folder)
        self.identity = {"format": str(FORMAT), "decoder": decoder, "bank": bank}
        self._lock = threading.RLock()
        self.changes = 0
        """How often this process has changed an edit."""
        self._process = os.getpid()
        with self._plain_errors():
            self._connection = self._connect()
        try:
            self._create_tables()
            if self._check_identity() == UPGRADED_FORMAT:
                with self.writing() as connection:
                    upgrade(connection)
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    @property
    def name(self) -> str:
        """Return where the edits are, for messages."""
        return "the edits in memory" if self.folder is None else repr(str(self.folder / FILE))

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Keep other threads out, and see one state of the database in the whole block."""
        self._leave_parent()
        with self._lock, self._plain_errors(), transaction(self._connection, write=False):
            yield self._connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Write everything in the block or nothing; keep other threads and processes out."""
        self._leave_parent()
        with self._lock, self._plain_errors(), transaction(self._connection, write=True):
            yield self._connection

    def version(self) -> tuple[int, int]:
        """Return a value that changes whenever this process changes an edit, or another process the database."""
        with self.reading() as connection:
            return int(connection.execute("PRAGMA data_version").fetchone()[0]), self.changes

    def copy_to(self, folder: str | Path) -> None:
        """Write a copy into another folder, whole or not at all.

        Raises:
            FileExistsError: That folder holds other edits.
        """
        target = as_path(folder) / FILE
        if target.exists():
            if self.folder is not None and target.samefile(self.folder / FILE):
                return
            raise FileExistsError(f"{str(target)!r} holds edits already; name another folder, or add to those edits.")
        make_folder(target.parent)
        temporary = target.with_name(f".{FILE}.{secrets.token_hex(8)}")
        errors = sqlite_errors(f"the copy {str(target)!r} of {self.name}", "a store of edits", "restore it from a copy")
        try:
            temporary.touch(exist_ok=False)  # with the permissions that the umask leaves
            with self._lock, errors, contextlib.closing(sqlite3.connect(temporary)) as copy:
                self._connection.backup(copy)
            for ending in ("-wal", "-shm"):  # of a file that is gone: SQLite would apply its log to the copy
                target.with_name(FILE + ending).unlink(missing_ok=True)
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def _connect(self) -> sqlite3.Connection:
        """Open the file, for reading alone if it cannot be written."""
        path: Path | Literal[":memory:"] = ":memory:"
        read_only = False
        if self.folder is not None:
            path = self.folder / FILE
            try:
                if not path.exists():
                    make_folder(self.folder)
                    path.touch()  # with the permissions that the umask leaves
            except OSError as error:
                raise OSError(
                    f"{self.name} cannot be made ({error.strerror or error}); name a folder that can be written."
                ) from error
            read_only = not (os.access(path, os.W_OK) and os.access(self.folder, os.W_OK))
        connection = open_database(path, share_between_threads=True, read_only=read_only)
        # Text that is not UTF-8 any more is read, so that its digest shows the damage.
        connection.text_factory = lambda data: data.decode(errors="replace")
        return connection

    def _leave_parent(self) -> None:
        """Open the file again in a forked process: locks and the transaction in hand are those of the parent."""
        if self._process != os.getpid():
            self._process, self._lock = os.getpid(), threading.RLock()
            if self.folder is not None:
                self._inherited = self._connection  # never closed here, where that would touch the parent's files
                with self._plain_errors():
                    self._connection = self._connect()

    def _create_tables(self) -> None:
        """Create the tables if the file is empty."""
        query = "SELECT 1 FROM sqlite_master WHERE name = 'meta'"
        with self.reading() as connection:
            if connection.execute(query).fetchone():
                return
        with self.writing() as connection:
            if not connection.execute(query).fetchone():  # another process may have been faster
                for statement in _TABLES.split(";"):
                    connection.execute(statement)
                connection.executemany("INSERT INTO meta VALUES (?, ?)", self.identity.items())

    def _check_identity(self) -> str | None:
        """Refuse a file of another decoder, bank or format, and return its format."""
        with self.reading() as connection:
            stored = dict(connection.execute("SELECT name, value FROM meta"))
        for name, value in self.identity.items():
            if stored.get(name) == value or (name == "format" and stored.get(name) == UPGRADED_FORMAT):
                continue
            if name == "format":
                raise ValueError(f"{self.name} has format {stored.get(name)!r}; this version of diekae reads {FORMAT}.")
            raise ValueError(
                f"{self.name} was made for {name} {stored.get(name)}, but this {name} is {value}; load the right "
                f"{name}, or make the edits again from their list."
            )
        return stored.get("format")

    @contextlib.contextmanager
    def _plain_errors(self) -> Iterator[None]:
        """Turn SQLite's errors into ours."""
        with sqlite_errors(self.name, "a store of edits", "restore it from a copy"):
            try:
                yield
            except UnicodeDecodeError as error:  # SQLite's message quotes damaged bytes
                raise sqlite3.DatabaseError(str(error)) from error
