"""SQLite files that several processes share: how they are opened, their transactions, and their errors in plain words.

`transaction` guarantees that the statements of a block are committed together or not at all, also if the process is
killed. A writing block is the only writer from its first line. A reading block sees one state of the file from its
first query on; it does not wait for a writer, and no writer waits for it.

Example:
    connection = open_database(path)
    with sqlite_errors(repr(str(path)), "a catalogue", "restore it from a copy"), transaction(connection, write=True):
        connection.execute("INSERT INTO documents VALUES (?)", (text,))
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal
from urllib.parse import quote

PATIENCE = 60.0
"""Seconds that a writer waits for another writer before it fails."""


def open_database(
    path: Path | Literal[":memory:"], *, share_between_threads: bool = False, read_only: bool = False
) -> sqlite3.Connection:
    """Open a database for :func:`transaction`, with a write-ahead log; a file that does not exist is created.

    A committed transaction outlives a kill of the process and a power cut.

    Args:
        path: The file; its folder exists.
        share_between_threads: Allow use by several threads; the caller then makes them take turns.
        read_only: Change nothing and create nothing. Then the file may be on a drive that cannot be written.

    Raises:
        sqlite3.Error: The file cannot be opened or is not a database; see :func:`sqlite_errors`.
    """
    # With isolation_level=None the module `sqlite3` begins no transactions of its own.
    connection = sqlite3.connect(
        _read_only_address(Path(path)) if read_only else path,
        timeout=PATIENCE,
        isolation_level=None,
        check_same_thread=not share_between_threads,
        uri=read_only,
    )
    try:
        # A foreign file may hold views and triggers: they must not call functions with side effects.
        connection.execute("PRAGMA trusted_schema = OFF")
        if not read_only:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
    except BaseException:
        connection.close()
        raise
    return connection


def _read_only_address(path: Path) -> str:
    """Return the address that opens a file for reading alone."""
    address = f"file:{quote(os.fsencode(path.absolute()))}?mode=ro"
    # Beside a file in WAL mode SQLite creates two others, a log and its index. If that is impossible and they are not
    # there, the file is taken for one that nobody changes. A log with transactions must be read, so that without its
    # index SQLite says that it cannot.
    log, index = (path.with_name(path.name + ending) for ending in ("-wal", "-shm"))
    unused = not log.exists() or (log.stat().st_size == 0 and not index.exists())
    return f"{address}&immutable=1" if unused and not os.access(path.parent, os.W_OK) else address


@contextmanager
def transaction(connection: sqlite3.Connection, *, write: bool) -> Iterator[None]:
    """Run a block as one transaction of a connection from :func:`open_database`.

    A writing block is the only writer from now on. A block inside another block of the same connection joins the outer
    transaction, which alone commits or rolls back. Do not write inside a reading block: SQLite refuses it if another
    process has written meanwhile.
    """
    if connection.in_transaction:
        yield
        return
    connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # after some errors, such as a full disk, SQLite has rolled back itself
            connection.execute("ROLLBACK")
        raise


@contextmanager
def sqlite_errors(name: str, kind: str, remedy: str) -> Iterator[None]:
    """Replace SQLite's errors in a block by errors that name the file and say what to do.

    Messages say that the file ``name`` is not ``kind``, such as ``a catalogue``, and ``remedy``: ``restore it from a
    copy``.

    Raises:
        OSError: The file cannot be opened or written, or another process has been writing for too long.
        ValueError: The file is not a database of this kind, or is damaged.
    """
    try:
        yield
    except sqlite3.OperationalError as error:
        # Tables that are missing, and bytes that are not UTF-8.
        if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) == sqlite3.SQLITE_ERROR:
            raise ValueError(f"{name} is not {kind}, or is damaged ({error}); {remedy}.") from error
        raise OSError(
            f"{name} cannot be used ({error}); expected a folder on a local disk that can be written and is not full, "
            f"and no other process that writes for more than {PATIENCE:.0f} s."
        ) from error
    except sqlite3.DatabaseError as error:
        raise ValueError(f"{name} is not {kind}, or is damaged ({error}); {remedy}.") from error
