"""Uploaded files and sets of them, kept beside a knowledge store: who owns what, and which document a file became.

    <store>/server.sqlite      files, vector stores, and which file is in which
    <store>/uploads/<file id>  the bytes of each file, as they were sent

A file is acknowledged once its row is committed, which is after its bytes are on disk. What was not yet read when the
server ended is read when it starts again.
"""

import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Literal

from diekae.files import make_folder, write_atomically
from diekae.serve.access import Tenant
from diekae.sqlite import open_database, transaction

ABANDONED = 3600.0
"""Seconds after which bytes without a row are removed: another server may be about to write their row."""
Status = Literal["in_progress", "completed", "failed"]
_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, name TEXT NOT NULL, suffix TEXT NOT NULL, bytes INTEGER NOT NULL,
    created INTEGER NOT NULL, purpose TEXT NOT NULL, status TEXT NOT NULL, error TEXT, document TEXT);
CREATE TABLE IF NOT EXISTS stores (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, name TEXT NOT NULL, created INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS members (
    store TEXT NOT NULL REFERENCES stores ON DELETE CASCADE, file TEXT NOT NULL REFERENCES files ON DELETE CASCADE,
    created INTEGER NOT NULL, PRIMARY KEY (store, file));
CREATE INDEX IF NOT EXISTS files_by_document ON files (document);
"""


@dataclass(frozen=True)
class StoredFile:
    """An uploaded file."""

    id: str
    owner: str
    name: str
    """As its sender called it; never part of a path."""
    suffix: str
    """Kind of file, as ``.pdf``."""
    bytes: int
    created: int
    """Seconds since 1970."""
    purpose: str
    status: Status
    error: str | None
    """Why it could not be read."""
    document: str | None
    """Id of its document in the knowledge store."""


@dataclass(frozen=True)
class VectorStore:
    """A named set of files."""

    id: str
    owner: str
    name: str
    created: int


class Library:
    """Files and vector stores; safe to use from several threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.uploads = folder / "uploads"
        make_folder(self.uploads)
        self._lock = threading.RLock()
        self._connection = open_database(folder / "server.sqlite", share_between_threads=True)
        self._connection.executescript(f"PRAGMA foreign_keys = ON; {_SCHEMA}")
        self._clean()

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._connection.close()

    def add(self, tenant: Tenant, name: str, suffix: str, purpose: str, content: bytes) -> StoredFile:
        """Keep a file's bytes, then its row."""
        file = StoredFile(
            _id("file"), tenant.name, name, suffix, len(content), int(time.time()), purpose, "in_progress", None, None
        )
        write_atomically(self.path(file), content)
        self._write("INSERT INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", *astuple(file))
        return file

    def path(self, file: StoredFile) -> Path:
        """Return where a file's bytes are: its id alone decides, and the suffix tells readers what it is."""
        return self.uploads / f"{file.id}{file.suffix}"

    def settle(self, id: str, document: str | None, error: str | None) -> bool:
        """Record what a file became; returns False if it was deleted meanwhile."""
        status = "completed" if error is None else "failed"
        query = "UPDATE files SET status = ?, document = ?, error = ? WHERE id = ? RETURNING id"
        return bool(self._write(query, status, document, error, id))

    def files(self, tenant: Tenant) -> list[StoredFile]:
        """Return a tenant's files, the newest first."""
        return self._files("WHERE owner = ? OR ?", (tenant.name, tenant.everything))

    def documents(self) -> set[str]:
        """Return the ids of the documents that files of any owner became."""
        return {file.document for file in self._files("", ()) if file.document is not None}

    def unprepared(self, documents: Set[str]) -> list[StoredFile]:
        """Return the files that are not read yet, or whose document is not among those that exist; the oldest first."""
        files = self._files("WHERE status != 'failed'", ())[::-1]
        return [file for file in files if file.document not in documents]

    def file(self, tenant: Tenant, id: str) -> StoredFile | None:
        """Return a file, None if there is none of the tenant's with that id."""
        files = self._files("WHERE id = ? AND (owner = ? OR ?)", (id, tenant.name, tenant.everything))
        return files[0] if files else None

    def delete(self, file: StoredFile) -> str | None:
        """Delete a file; returns the document that it had become, if any."""
        rows = self._write("DELETE FROM files WHERE id = ? RETURNING document", file.id)
        self.path(file).unlink(missing_ok=True)
        return rows[0][0] if rows else None

    def names(self, tenant: Tenant, documents: Sequence[str] | None = None) -> dict[str, str]:
        """Return the tenant's name of each document, or of those given, that came from a file of its own."""
        where, values = "WHERE (owner = ? OR ?)", [tenant.name, tenant.everything]
        if documents is not None:
            where, values = f"{where} AND document IN ({','.join('?' * len(documents))})", [*values, *documents]
        files = self._files(where, values)
        return {file.document: file.name for file in files if file.document is not None}

    def create_store(self, tenant: Tenant, name: str, files: Sequence[StoredFile]) -> VectorStore:
        """Make a set of files."""
        store = VectorStore(_id("vs"), tenant.name, name, int(time.time()))
        with self._writing() as connection:
            connection.execute("INSERT INTO stores VALUES (?, ?, ?, ?)", (store.id, store.owner, name, store.created))
            rows = [(store.id, file.id, store.created) for file in files]
            connection.executemany("INSERT OR IGNORE INTO members VALUES (?, ?, ?)", rows)
        return store

    def stores(self, tenant: Tenant) -> list[VectorStore]:
        """Return a tenant's sets, the newest first."""
        return self._stores("WHERE owner = ? OR ?", (tenant.name, tenant.everything))

    def store(self, tenant: Tenant, id: str) -> VectorStore | None:
        """Return a set, None if there is none of the tenant's with that id."""
        stores = self._stores("WHERE id = ? AND (owner = ? OR ?)", (id, tenant.name, tenant.everything))
        return stores[0] if stores else None

    def delete_store(self, store: VectorStore) -> None:
        """Forget a set; its files stay."""
        self._write("DELETE FROM stores WHERE id = ?", store.id)

    def members(self, store: VectorStore) -> list[StoredFile]:
        """Return the files of a set."""
        return self._files("WHERE id IN (SELECT file FROM members WHERE store = ?)", (store.id,))

    def join(self, store: VectorStore, file: StoredFile) -> None:
        """Put a file into a set."""
        self._write("INSERT OR IGNORE INTO members VALUES (?, ?, ?)", store.id, file.id, int(time.time()))

    def leave(self, store: VectorStore, file: StoredFile) -> None:
        """Take a file out of a set."""
        self._write("DELETE FROM members WHERE store = ? AND file = ?", store.id, file.id)

    def _clean(self) -> None:
        """Remove what a killed server has left in the folder of uploads: bytes without a row, some time after."""
        known = {self.path(file).name for file in self._files("", ())}
        for path in self.uploads.iterdir():
            with suppress(FileNotFoundError):  # another server was faster
                if path.name not in known and time.time() - path.stat().st_mtime > ABANDONED:
                    path.unlink()

    def _files(self, where: str, values: Sequence[object]) -> list[StoredFile]:
        return [StoredFile(*row) for row in self._select(f"files {where}", values)]

    def _stores(self, where: str, values: Sequence[object]) -> list[VectorStore]:
        return [VectorStore(*row) for row in self._select(f"stores {where}", values)]

    def _select(self, what: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        """Return rows, the newest first."""
        with self._lock:
            query = f"SELECT * FROM {what} ORDER BY created DESC, rowid DESC"
            return self._connection.execute(query, values).fetchall()

    def _write(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Change something, and return the rows that the query does."""
        with self._writing() as connection:
            return connection.execute(query, values).fetchall()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._lock, transaction(self._connection, write=True):
            yield self._connection


def _id(kind: str) -> str:
    return f"{kind}-{uuid.uuid4().hex[:24]}"
