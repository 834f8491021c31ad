"""The store of edits: each edit, its prepared knowledge, and the vector that a gate computed for it.

Every edit is one transaction, so a process that is killed loses at most the edit that it was writing. Nothing is ever
deleted. Of the edits of one fact that are not reverted, the newest is live and supersedes the others. When it is
reverted, the one before it is live again.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from diekae.edit.database import EditDatabase, digest
from diekae.edit.edit import Edit

_STATE = """CASE WHEN reverted THEN 'reverted'
    WHEN id < (SELECT MAX(id) FROM edits AS other WHERE other.fact = edits.fact AND NOT other.reverted)
    THEN 'superseded' ELSE 'live' END"""


@dataclass(frozen=True)
class Record:
    """An edit in a store."""

    id: int
    """Its number, which no other edit ever gets."""
    edit: Edit
    """The edit itself."""
    state: str
    """``live``: it is in force; ``superseded`` by a newer edit of the same fact; ``reverted``."""
    created: str
    """Time it was made, ISO 8601, UTC."""


class Snapshot(NamedTuple):
    """One state of a store, as a gate needs it."""

    version: tuple[int, int]
    """The result of :meth:`EditStore.version`."""
    records: list[Record]
    """The live edits, oldest first."""
    vectors: dict[int, bytes]
    """The gate's vectors, by edit."""


class EditStore(EditDatabase):
    """The edits of one decoder and bank."""

    def __repr__(self) -> str:
        """Return one line: where the store is, and its number of edits. Works for a damaged or closed store too."""
        try:
            with self._lock:
                live = [bool(row[0]) for row in self._connection.execute(f"SELECT {_STATE} = 'live' FROM edits")]
            summary = f"{sum(live)} edits in force of {len(live)}"
        except sqlite3.Error as error:
            summary = f"cannot be read: {error}"
        return f"EditStore({'in memory' if self.folder is None else repr(str(self.folder))}, {summary})"

    def add(self, edit: Edit) -> Record:
        """Write an edit, whole or not at all.

        Raises:
            ValueError: The same edit is live already.
        """
        text, fact = json.dumps(asdict(edit), sort_keys=True), json.dumps(edit.fact)
        created = datetime.now(UTC).isoformat(timespec="seconds")
        with self._writing():
            if (same := self.duplicate(edit)) is not None:
                raise ValueError(
                    f"this is edit {same} already: {edit.prompt!r} → {edit.target!r}; revert {same} first, or leave "
                    "this one out."
                )
            row = (fact, text, digest(text.encode()), created)
            query = "INSERT INTO edits (fact, edit, digest, created) VALUES (?, ?, ?, ?)"
            number = self._connection.execute(query, row).lastrowid
            self._changes += 1
        assert number is not None
        return Record(number, edit, "live", created)

    def duplicate(self, edit: Edit) -> int | None:
        """Return the id of the live edit with the same fact and target, or None."""
        query = "SELECT id, edit FROM edits WHERE fact = ? AND NOT reverted ORDER BY id DESC LIMIT 1"
        with self._reading():
            row = self._connection.execute(query, (json.dumps(edit.fact),)).fetchone()
        return int(row[0]) if row and json.loads(row[1])["target"].strip() == edit.target.strip() else None

    def records(self, *, every: bool = False) -> list[Record]:
        """Return the live edits, or with ``every`` all edits that were ever made, oldest first.

        Raises:
            ValueError: One is damaged.
        """
        where = "" if every else "WHERE state = 'live'"
        query = f"SELECT * FROM (SELECT id, edit, digest, {_STATE} AS state, created FROM edits) {where} ORDER BY id"
        with self._reading():
            return [self._record(*row) for row in self._connection.execute(query)]

    def snapshot(self, gate: str) -> Snapshot:
        """Return version, live edits and a gate's vectors, all of one moment; the gate is named by its fingerprint.

        Raises:
            ValueError: An edit is damaged.
        """
        with self._reading():
            return Snapshot(self.version(), self.records(), self.vectors(gate))

    def record(self, number: int) -> Record:
        """Return one edit.

        Raises:
            ValueError: There is no such edit, or it is damaged.
        """
        query = f"SELECT id, edit, digest, {_STATE}, created FROM edits WHERE id = ?"
        with self._reading():
            row = self._connection.execute(query, (number,)).fetchone()
            if row is None:
                raise ValueError(f"no edit {number} in {self.name}; `list` shows the edits.")
            return self._record(*row)

    def revert(self, number: int) -> Record | None:
        """Revert an edit; one that it superseded is live again. Return it, or None if its record is damaged.

        Raises:
            ValueError: There is no such edit, or it was reverted before.
        """
        with self._writing():
            row = self._connection.execute("SELECT reverted FROM edits WHERE id = ?", (number,)).fetchone()
            if row is None or row[0]:
                problem = "is not in" if row is None else "was reverted before in"
                raise ValueError(f"edit {number} {problem} {self.name}; `list` shows the edits that can be reverted.")
            self._connection.execute("UPDATE edits SET reverted = 1 WHERE id = ?", (number,))
            self._changes += 1
        try:
            return self.record(number)
        except ValueError:
            return None

    def put_prepared(self, number: int, data: bytes) -> None:
        """Write the prepared knowledge of an edit."""
        with self._writing():
            row = (number, data, digest(data))
            self._connection.execute("INSERT OR REPLACE INTO memories VALUES (?, ?, ?)", row)

    def prepared(self, number: int) -> bytes | None:
        """Return the prepared knowledge of an edit, None if there is none yet.

        Raises:
            ValueError: It is damaged.
        """
        with self._reading():
            row = self._connection.execute("SELECT data, digest FROM memories WHERE id = ?", (number,)).fetchone()
        if row is not None and digest(row[0]) != row[1]:
            raise self._damaged(number)
        return None if row is None else bytes(row[0])

    def without_prepared(self) -> list[int]:
        """Return the live edits that have no prepared knowledge yet."""
        query = f"SELECT id FROM edits WHERE {_STATE} = 'live' AND id NOT IN (SELECT id FROM memories) ORDER BY id"
        with self._reading():
            return [row[0] for row in self._connection.execute(query)]

    def put_vectors(self, gate: str, rows: Sequence[tuple[int, bytes]]) -> None:
        """Write a gate's vectors: the id of each edit, and its vector."""
        with self._writing():
            values = [(number, gate, data) for number, data in rows]
            self._connection.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)", values)

    def vectors(self, gate: str) -> dict[int, bytes]:
        """Return the vectors of a gate, named by its fingerprint, by edit."""
        with self._reading():
            return dict(self._connection.execute("SELECT id, data FROM vectors WHERE gate = ?", (gate,)))

    def _record(self, number: int, text: str, stored_digest: str, state: str, created: str) -> Record:
        if digest(text.encode()) != stored_digest:
            raise self._damaged(number)
        values = json.loads(text)
        return Record(number, Edit(**{**values, "aliases": tuple(values["aliases"])}), state, created)

    def _damaged(self, number: int) -> ValueError:
        return ValueError(
            f"edit {number} in {self.name} is damaged: its record is not what was written. Revert it and make it again."
        )
