"""Edits on disk: one SQLite file that holds each edit, its prepared memory, and what a gate keeps of it.

Every edit is one transaction, in SQLite's write-ahead log: a process that is killed loses at most the edit in hand, and
several processes may write to one store. Nothing is ever deleted: of the edits of one fact that are not reverted, the
newest speaks and supersedes the others; when it is reverted, the one before speaks again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from diekae.edit.edit import Edit

FILE = "edits.sqlite"
FORMAT = 1
"""Version of the tables."""
PATIENCE = 60.0
"""Seconds to wait for another process that writes."""
_TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE edits (id INTEGER PRIMARY KEY AUTOINCREMENT, fact TEXT NOT NULL, edit TEXT NOT NULL, digest TEXT NOT NULL,
    created TEXT NOT NULL, reverted INTEGER NOT NULL DEFAULT 0) STRICT;
CREATE INDEX by_fact ON edits (fact);
CREATE TABLE memories (id INTEGER PRIMARY KEY REFERENCES edits, data BLOB NOT NULL, digest TEXT NOT NULL) STRICT;
CREATE TABLE vectors (id INTEGER NOT NULL REFERENCES edits, gate TEXT NOT NULL, data BLOB NOT NULL,
    PRIMARY KEY (id, gate)) STRICT;
"""
_STATE = """CASE WHEN reverted THEN 'reverted'
    WHEN id < (SELECT MAX(id) FROM edits AS other WHERE other.fact = edits.fact AND NOT other.reverted)
    THEN 'superseded' ELSE 'live' END"""


@dataclass(frozen=True)
class Record:
    """An edit in a store."""

    id: int
    """Its number; never given to another."""
    edit: Edit
    """What was asked for."""
    state: str
    """``live``: it speaks; ``superseded`` by a newer edit of the same fact; ``reverted``."""
    created: str
    """When, ISO 8601, UTC."""


class EditStore:
    """The edits of one decoder and bank."""

    def __init__(self, folder: str | Path | None, decoder: str, bank: str) -> None:
        """Open a store, or begin one.

        Args:
            folder: Where ``edits.sqlite`` is or shall be; None keeps the edits in this process's memory.
            decoder: The decoder's fingerprint.
            bank: The bank's.

        Raises:
            ValueError: The store is another decoder's or bank's, of a newer format, or damaged.
        """
        self.folder = None if folder is None else Path(folder)
        self.identity = {"format": str(FORMAT), "decoder": decoder, "bank": bank}
        self._lock = threading.RLock()
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
        place = ":memory:" if self.folder is None else str(self.folder / FILE)
        self._base = sqlite3.connect(place, timeout=PATIENCE, check_same_thread=False, isolation_level=None)
        try:
            with self._said():
                self._base.execute("PRAGMA journal_mode = WAL")
                self._base.execute("PRAGMA synchronous = FULL")
            with self._transaction():
                if not self._base.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
                    for statement in _TABLES.split(";"):
                        self._base.execute(statement)
                    self._base.executemany("INSERT INTO meta VALUES (?, ?)", self.identity.items())
            self._check_identity()
        except BaseException:
            self._base.close()
            raise

    def __repr__(self) -> str:
        """Say on one line where the store is and how many edits it holds; also of one that is damaged or closed."""
        try:
            with self._lock:
                query = f"SELECT {_STATE} = 'live' FROM edits"
                live = [bool(row[0]) for row in self._base.execute(query)]
            held = f"{sum(live)} edits in force of {len(live)}"
        except sqlite3.Error as error:
            held = f"cannot be read: {error}"
        return f"EditStore({'in memory' if self.folder is None else repr(str(self.folder))}, {held})"

    def close(self) -> None:
        """Close the file."""
        self._base.close()

    @property
    def name(self) -> str:
        """Return where the store is, for messages."""
        return "the edits in memory" if self.folder is None else repr(str(self.folder / FILE))

    def version(self) -> tuple[int, int]:
        """Return what differs whenever this process or another has changed the store."""
        with self._lock, self._said():
            return int(self._base.execute("PRAGMA data_version").fetchone()[0]), self._base.total_changes

    def add(self, edit: Edit) -> Record:
        """Write an edit, whole or not at all.

        Raises:
            ValueError: The same edit is live already.
        """
        text, fact = json.dumps(asdict(edit), sort_keys=True), json.dumps(edit.fact)
        created = datetime.now(UTC).isoformat(timespec="seconds")
        with self._transaction():
            if (twin := self._duplicate(edit)) is not None:
                raise ValueError(
                    f"this is edit {twin} already: {edit.prompt!r} → {edit.target!r}; revert {twin} first, or leave "
                    "this one out."
                )
            row = (fact, text, _digest(text.encode()), created)
            found = self._base.execute("INSERT INTO edits (fact, edit, digest, created) VALUES (?, ?, ?, ?)", row)
        assert found.lastrowid is not None
        return Record(found.lastrowid, edit, "live", created)

    def duplicate(self, edit: Edit) -> int | None:
        """Return the id of the live edit that says the same, or None."""
        with self._lock, self._said():
            return self._duplicate(edit)

    def _duplicate(self, edit: Edit) -> int | None:
        query = "SELECT id, edit FROM edits WHERE fact = ? AND NOT reverted ORDER BY id DESC LIMIT 1"
        row = self._base.execute(query, (json.dumps(edit.fact),)).fetchone()
        return int(row[0]) if row and json.loads(row[1])["target"].strip() == edit.target.strip() else None

    def records(self, *, every: bool = False) -> list[Record]:
        """Return the live edits, or every edit there ever was, oldest first.

        Raises:
            ValueError: One is damaged.
        """
        where = "" if every else "WHERE state = 'live'"
        query = f"SELECT * FROM (SELECT id, edit, digest, {_STATE} AS state, created FROM edits) {where} ORDER BY id"
        with self._lock, self._said():
            return [self._record(*row) for row in self._base.execute(query)]

    def record(self, number: int) -> Record:
        """Return one edit.

        Raises:
            ValueError: There is none of that number, or it is damaged.
        """
        query = f"SELECT id, edit, digest, {_STATE}, created FROM edits WHERE id = ?"
        with self._lock, self._said():
            row = self._base.execute(query, (number,)).fetchone()
            if row is None:
                raise ValueError(f"no edit {number} in {self.name}; `list` shows those that are there.")
            return self._record(*row)

    def revert(self, number: int) -> Record | None:
        """Take an edit back; the one that it superseded speaks again. Returns it, or None if its record is damaged.

        Raises:
            ValueError: There is none of that number, or it was reverted before.
        """
        with self._transaction():
            row = self._base.execute("SELECT reverted FROM edits WHERE id = ?", (number,)).fetchone()
            if row is None or row[0]:
                what = "is not in" if row is None else "was reverted before in"
                raise ValueError(f"edit {number} {what} {self.name}; `list` shows those that can be reverted.")
            self._base.execute("UPDATE edits SET reverted = 1 WHERE id = ?", (number,))
        try:
            return self.record(number)
        except ValueError:
            return None

    def put_prepared(self, number: int, data: bytes) -> None:
        """Keep the prepared memory of an edit."""
        with self._transaction():
            self._base.execute("INSERT OR REPLACE INTO memories VALUES (?, ?, ?)", (number, data, _digest(data)))

    def prepared(self, number: int) -> bytes | None:
        """Return the prepared memory of an edit, None if it has none yet.

        Raises:
            ValueError: It is damaged.
        """
        with self._lock, self._said():
            row = self._base.execute("SELECT data, digest FROM memories WHERE id = ?", (number,)).fetchone()
        if row is not None and _digest(row[0]) != row[1]:
            raise self._damaged(number)
        return None if row is None else bytes(row[0])

    def without_prepared(self) -> list[int]:
        """Return the live edits that have no prepared memory yet."""
        query = f"SELECT id FROM edits WHERE {_STATE} = 'live' AND id NOT IN (SELECT id FROM memories) ORDER BY id"
        with self._lock, self._said():
            return [row[0] for row in self._base.execute(query)]

    def put_vectors(self, gate: str, rows: Sequence[tuple[int, bytes]]) -> None:
        """Keep what a gate has made of some edits."""
        with self._transaction():
            values = [(number, gate, data) for number, data in rows]
            self._base.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)", values)

    def vectors(self, gate: str) -> dict[int, bytes]:
        """Return what a gate, named by its fingerprint, has made of each edit."""
        with self._lock, self._said():
            return dict(self._base.execute("SELECT id, data FROM vectors WHERE gate = ?", (gate,)))

    def nbytes(self) -> int:
        """Return the size of the store in bytes."""
        with self._lock, self._said():
            pages, size = (self._base.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
        return int(pages) * int(size)

    def copy_to(self, folder: str | Path) -> None:
        """Write a copy of the store into another folder, whole or not at all.

        Raises:
            FileExistsError: There is another store already.
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
            with self._lock, self._said(), contextlib.closing(sqlite3.connect(temporary)) as copy:
                self._base.backup(copy)
            os.chmod(temporary, 0o644)
            os.replace(temporary, target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    def _record(self, number: int, text: str, digest: str, state: str, created: str) -> Record:
        if _digest(text.encode()) != digest:
            raise self._damaged(number)
        values = json.loads(text)
        return Record(number, Edit(**{**values, "aliases": tuple(values["aliases"])}), state, created)

    def _check_identity(self) -> None:
        with self._said():
            found = dict(self._base.execute("SELECT name, value FROM meta"))
        for name, value in self.identity.items():
            if found.get(name) == value:
                continue
            if name == "format":
                raise ValueError(f"{self.name} has format {found.get(name)}; this version of diekae reads {FORMAT}.")
            raise ValueError(
                f"{self.name} was made for {name} {found.get(name)}, but this {name} is {value}; load the right "
                f"{name}, or make the edits anew from their list."
            )

    def _damaged(self, number: int) -> ValueError:
        return ValueError(
            f"edit {number} in {self.name} is damaged: its record is not what was written. Revert it and make it again."
        )

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """Write all or nothing, alone."""
        with self._lock, self._said():
            self._base.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._base.execute("COMMIT")
            except BaseException:
                self._base.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _said(self) -> Iterator[None]:
        """Say what SQLite complains of in our words."""
        try:
            yield
        except sqlite3.OperationalError as error:
            raise OSError(
                f"{self.name} cannot be used now ({error}); is another process at work, or the disk full?"
            ) from error
        except sqlite3.DatabaseError as error:
            raise ValueError(f"{self.name} is damaged or holds no edits ({error}); restore it from a copy.") from error


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
