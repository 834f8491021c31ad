"""The SQLite file that the store of edits is built on: tables, transactions, copies, and errors in plain words."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from diekae.sqlite import open_database, sqlite_errors, transaction

FILE = "edits.sqlite"
FORMAT = 1
"""Version of the tables."""
_TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE edits (id INTEGER PRIMARY KEY AUTOINCREMENT, fact TEXT NOT NULL, edit TEXT NOT NULL, digest TEXT NOT NULL,
    created TEXT NOT NULL, reverted INTEGER NOT NULL DEFAULT 0) STRICT;
CREATE INDEX by_fact ON edits (fact);
CREATE TABLE memories (id INTEGER PRIMARY KEY REFERENCES edits, data BLOB NOT NULL, digest TEXT NOT NULL) STRICT;
CREATE TABLE vectors (id INTEGER NOT NULL REFERENCES edits, gate TEXT NOT NULL, data BLOB NOT NULL,
    PRIMARY KEY (id, gate)) STRICT;
"""


class EditDatabase:
    """A connection to one SQLite file, or to a database in RAM.

    Threads may share it. The file is in write-ahead log mode, so that several processes may write to it.
    """

    def __init__(self, folder: str | Path | None, decoder: str, bank: str) -> None:
        """Open the database, or create it.

        Args:
            folder: The folder of ``edits.sqlite``; None keeps everything in RAM.
            decoder: The decoder's fingerprint.
            bank: The bank's fingerprint.

        Raises:
            ValueError: The file belongs to another decoder or bank, has another format, or is damaged.
        """
        self.folder = None if folder is None else Path(folder)
        self.identity = {"format": str(FORMAT), "decoder": decoder, "bank": bank}
        self._lock = threading.RLock()
        self._changes = 0
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
        path: Path | Literal[":memory:"] = ":memory:" if self.folder is None else self.folder / FILE
        with self._plain_errors():
            self._connection = open_database(path, synchronous="FULL", share_between_threads=True)
        try:
            with self._writing():
                if not self._connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
                    for statement in _TABLES.split(";"):
                        self._connection.execute(statement)
                    self._connection.executemany("INSERT INTO meta VALUES (?, ?)", self.identity.items())
            self._check_identity()
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

    def version(self) -> tuple[int, int]:
        """Return a value that changes whenever this process changes an edit, or another process the database."""
        with self._reading():
            return int(self._connection.execute("PRAGMA data_version").fetchone()[0]), self._changes

    def nbytes(self) -> int:
        """Return the size of the database in bytes."""
        with self._reading():
            pages, size = (
                int(self._connection.execute(f"PRAGMA {name}").fetchone()[0]) for name in ("page_count", "page_size")
            )
        return pages * size

    def copy_to(self, folder: str | Path) -> None:
        """Write a copy into another folder, whole or not at all.

        Raises:
            FileExistsError: That folder holds other edits.
        """
        target = Path(folder) / FILE
        if target.exists():
            if self.folder is not None and target.samefile(self.folder / FILE):
                return
            raise FileExistsError(f"{str(target)!r} holds edits already; name another folder, or add to those edits.")
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{FILE}.")
        os.close(handle)
        try:
            with self._reading(), contextlib.closing(sqlite3.connect(temporary)) as copy:
                self._connection.backup(copy)
            os.chmod(temporary, 0o644)
            os.replace(temporary, target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    def _check_identity(self) -> None:
        with self._reading():
            stored = dict(self._connection.execute("SELECT name, value FROM meta"))
        for name, value in self.identity.items():
            if stored.get(name) == value:
                continue
            if name == "format":
                raise ValueError(f"{self.name} has format {stored.get(name)}; this version of diekae reads {FORMAT}.")
            raise ValueError(
                f"{self.name} was made for {name} {stored.get(name)}, but this {name} is {value}; load the right "
                f"{name}, or make the edits again from their list."
            )

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """Keep other threads out, and see one state of the database in the whole block."""
        with self._lock, self._plain_errors(), transaction(self._connection, write=False):
            yield

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Write everything in the block or nothing; keep other threads and processes out."""
        with self._lock, self._plain_errors(), transaction(self._connection, write=True):
            yield

    def _plain_errors(self) -> contextlib.AbstractContextManager[None]:
        """Turn SQLite's errors into ours."""
        return sqlite_errors(self.name, "a store of edits", "restore it from a copy")


def digest(data: bytes) -> str:
    """Return the SHA-256 of a record, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()
