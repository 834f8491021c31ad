"""The upgrade of a store of edits from version 1 of its tables, whose digests did not cover whole rows.

What is damaged stays damaged: its old digest is none of the new ones. Vectors had no digest; they are computed again.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3

from diekae.edit.rows import COLUMNS, StoredEdit, digest

UPGRADED_FORMAT = "1"
"""The version that is upgraded."""


def upgrade(connection: sqlite3.Connection) -> None:
    """Upgrade the tables, if another process has not done it meanwhile; in a transaction of the caller."""
    if connection.execute("SELECT value FROM meta WHERE name = 'format'").fetchone()[0] != UPGRADED_FORMAT:
        return
    connection.execute("ALTER TABLE vectors ADD COLUMN digest TEXT NOT NULL DEFAULT ''")
    for columns in connection.execute(f"SELECT {COLUMNS} FROM edits").fetchall():
        old = StoredEdit(*columns)
        if hashlib.sha256(old.text.encode()).hexdigest() != old.digest:
            continue
        with contextlib.suppress(ValueError):
            row = StoredEdit.of(old.edit(), old.id, old.created, old.reverted)
            values = (row.fact, row.text, row.digest, row.id)
            connection.execute("UPDATE edits SET fact = ?, edit = ?, digest = ? WHERE id = ?", values)
            _upgrade_prepared(connection, row)
    connection.execute("UPDATE meta SET value = '2' WHERE name = 'format'")


def _upgrade_prepared(connection: sqlite3.Connection, row: StoredEdit) -> None:
    """Write the new digest of an edit's prepared knowledge."""
    stored = connection.execute("SELECT data, digest FROM memories WHERE id = ?", (row.id,)).fetchone()
    if stored is not None and hashlib.sha256(stored[0]).hexdigest() == stored[1]:
        connection.execute("UPDATE memories SET digest = ? WHERE id = ?", (digest(row.digest, stored[0]), row.id))
