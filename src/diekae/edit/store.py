"""The store of edits: each edit, its prepared knowledge, and the vector that a gate computed for it.

Every edit is one transaction, so a process that is killed loses at most the edit that it was writing. Nothing is ever
deleted. Of the edits of one fact that are not reverted, the newest is live and supersedes the others. When it is
reverted, the one before it is live again.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from diekae.edit.database import EditDatabase
from diekae.edit.edit import Edit
from diekae.edit.rows import COLUMNS, DAMAGED, StoredEdit, digest, fact_key


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
        query = "SELECT COUNT(DISTINCT CASE WHEN NOT reverted THEN fact END), COUNT(*) FROM edits"
        try:
            with self._lock:
                live, count = self._connection.execute(query).fetchone()
            summary = f"{live} edits in force of {count}"
        except sqlite3.Error as error:
            summary = f"cannot be read: {error}"
        return f"EditStore({'in memory' if self.folder is None else repr(str(self.folder))}, {summary})"

    def add(self, edit: Edit) -> Record:
        """Write an edit, whole or not at all.

        Raises:
            OSError: It cannot be written.
            ValueError: The same edit is live already.
        """
        created = datetime.now(UTC).isoformat(timespec="seconds")
        with self.writing() as connection:
            if (same := self.duplicate(edit)) is not None:
                raise ValueError(
                    f"this is edit {same} already: {edit.prompt!r} → {edit.target!r}; revert {same} first, or leave "
                    "this one out."
                )
            row = StoredEdit.of(edit, 0, created)
            query = "INSERT INTO edits (fact, edit, digest, created, reverted) VALUES (?, ?, '', ?, 0)"
            number = connection.execute(query, (row.fact, row.text, created)).lastrowid
            assert number is not None
            seal = row._replace(id=number).seal()
            connection.execute("UPDATE edits SET digest = ? WHERE id = ?", (seal, number))
            self.changes += 1
        return Record(number, edit, "live", created)

    def duplicate(self, edit: Edit) -> int | None:
        """Return the id of the live edit with the same fact and target, or None."""
        query = f"SELECT {COLUMNS} FROM edits WHERE fact = ? AND NOT reverted ORDER BY id DESC LIMIT 1"
        with self.reading() as connection:
            columns = connection.execute(query, (fact_key(edit),)).fetchone()
        if columns is None:
            return None
        row = StoredEdit(*columns)
        return row.id if self._record(row, row.id).edit.target.strip() == edit.target.strip() else None

    def records(self, *, every: bool = False) -> list[Record]:
        """Return the live edits, or with ``every`` all edits that were ever made, oldest first.

        Edits that were damaged when they were reverted are left out.

        Raises:
            ValueError: One is damaged.
        """
        with self.reading() as connection:
            rows = [StoredEdit(*row) for row in connection.execute(f"SELECT {COLUMNS} FROM edits ORDER BY id")]
        newest = {row.fact: row.id for row in rows if not row.reverted}
        # All are checked, because damage to one may hide or revive another of the same fact.
        records = [self._record(row, newest.get(row.fact)) for row in rows if not row.was_damaged]
        return records if every else [record for record in records if record.state == "live"]

    def snapshot(self, gate: str) -> Snapshot:
        """Return version, live edits and a gate's vectors, all of one moment; the gate is named by its fingerprint."""
        with self.reading():
            return Snapshot(self.version(), self.records(), self.vectors(gate))

    def record(self, number: int) -> Record:
        """Return one edit; ValueError if there is no such edit, or it is damaged."""
        query = "SELECT MAX(id) FROM edits WHERE fact = ? AND NOT reverted"
        with self.reading() as connection:
            row = self._row(number)
            newest = connection.execute(query, (row.fact,)).fetchone()[0]
        return self._record(row, newest)

    def revert(self, number: int) -> Record | None:
        """Revert an edit; one that it superseded is live again. Return it, or None if its record is damaged.

        Raises:
            OSError: The reversion cannot be written.
            ValueError: There is no such edit, or it was reverted before.
        """
        with self.writing() as connection:
            row = self._row(number)
            if row.was_damaged or (row.is_whole and row.reverted):
                raise ValueError(
                    f"edit {number} was reverted before in {self.name}; `list` shows the edits that can be reverted."
                )
            seal = row._replace(reverted=1).seal() if row.is_whole else DAMAGED
            connection.execute("UPDATE edits SET reverted = 1, digest = ? WHERE id = ?", (seal, number))
            self.changes += 1
        try:
            return self.record(number)
        except ValueError:
            return None

    def put_prepared(self, number: int, data: bytes) -> None:
        """Write the prepared knowledge of an edit; OSError if it cannot be written."""
        with self.writing() as connection:
            values = (number, data, digest(self._row(number).digest, data))
            connection.execute("INSERT OR REPLACE INTO memories VALUES (?, ?, ?)", values)

    def prepared(self, number: int) -> bytes | None:
        """Return the prepared knowledge of an edit; None if there is none yet, or it is damaged or another edit's."""
        query = """SELECT memories.data, memories.digest, edits.digest FROM memories JOIN edits USING (id)
            WHERE id = ?"""
        with self.reading() as connection:
            row = connection.execute(query, (number,)).fetchone()
        if row is None:
            return None
        data, stored_digest, edit_digest = row
        return data if digest(edit_digest, data) == stored_digest else None

    def without_prepared(self) -> list[int]:
        """Return the live edits that have no prepared knowledge yet."""
        with self.reading() as connection:
            prepared = {row[0] for row in connection.execute("SELECT id FROM memories")}
            return [record.id for record in self.records() if record.id not in prepared]

    def put_vectors(self, gate: str, rows: Sequence[tuple[int, bytes]]) -> None:
        """Write a gate's vectors, each with the id of its edit; OSError if they cannot be written."""
        with self.writing() as connection:
            values = [(number, gate, data, digest(self._row(number).digest, gate, data)) for number, data in rows]
            connection.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?, ?)", values)

    def vectors(self, gate: str) -> dict[int, bytes]:
        """Return the vectors of a gate, named by its fingerprint, by edit, without those that are damaged."""
        query = """SELECT id, vectors.data, vectors.digest, edits.digest FROM vectors JOIN edits USING (id)
            WHERE gate = ?"""
        with self.reading() as connection:
            rows = connection.execute(query, (gate,)).fetchall()
        return {
            number: data
            for number, data, stored_digest, edit_digest in rows
            if digest(edit_digest, gate, data) == stored_digest
        }

    def _row(self, number: int) -> StoredEdit:
        """Return the row of an edit; ValueError if there is none."""
        query = f"SELECT {COLUMNS} FROM edits WHERE id = ?"
        with self.reading() as connection:
            # SQLite refuses numbers that do not fit into 64 bits.
            columns = connection.execute(query, (number,)).fetchone() if abs(number) < 2**63 else None
        if columns is None:
            raise ValueError(f"no edit {number} in {self.name}; `list` shows the edits.")
        return StoredEdit(*columns)

    def _record(self, row: StoredEdit, newest: int | None) -> Record:
        """Return the record of a whole row; ``newest`` is the newest edit of its fact that is not reverted."""
        message = (
            f"edit {row.id} in {self.name} is damaged: its record is not what was written. Revert it and make it again."
        )
        if not row.is_whole:
            raise ValueError(message)
        try:
            edit = row.edit()
        except ValueError as error:
            raise ValueError(message) from error
        state = "reverted" if row.reverted else "live" if row.id == newest else "superseded"
        return Record(row.id, edit, state, row.created)
