"""The rows of a store of edits, each with a digest of everything that it says, so that damage to any of it shows.

In version 1 of the tables the digests did not cover whole rows; :func:`upgrade` brings it to version 2. What is damaged
stays damaged: its old digest is none of the new ones. Vectors had no digest; they are computed again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from dataclasses import asdict
from typing import NamedTuple

from diekae.edit.edit import Edit

UPGRADED_FORMAT = "1"
"""Version of the tables that :func:`upgrade` takes."""
DAMAGED = "damaged"
"""In place of its digest: the record was damaged when it was reverted. It is never read again."""
COLUMNS = "id, fact, edit, digest, created, reverted"
"""The columns of :class:`StoredEdit`, as the table names them."""


class StoredEdit(NamedTuple):
    """A row of the table ``edits``."""

    id: int
    """The edit's number."""
    fact: str
    """JSON of :attr:`Edit.fact`."""
    text: str
    """JSON of the edit."""
    digest: str
    """Digest of the other columns, or ``damaged``."""
    created: str
    """Time it was made, ISO 8601, UTC."""
    reverted: int
    """1 if it was reverted, else 0."""

    @classmethod
    def of(cls, edit: Edit, number: int, created: str, reverted: int = 0) -> StoredEdit:
        """Return the row of an edit, with its digest."""
        row = cls(number, fact_key(edit), json.dumps(asdict(edit), sort_keys=True), "", created, reverted)
        return row._replace(digest=row.seal())

    def seal(self) -> str:
        """Return the digest that the other columns should have."""
        return digest(str(self.id), self.fact, self.text, self.created, str(self.reverted))

    @property
    def is_whole(self) -> bool:
        """Return whether the row is what was written."""
        return self.digest == self.seal()

    @property
    def was_damaged(self) -> bool:
        """Return whether the row was reverted because it was damaged."""
        return self.digest == DAMAGED and self.reverted == 1

    def edit(self) -> Edit:
        """Return the edit; ValueError if the text is not that of an edit."""
        try:
            values = json.loads(self.text)
            return Edit(**{**values, "aliases": tuple(values["aliases"])})
        except (KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"not an edit: {error}") from error


def fact_key(edit: Edit) -> str:
    """Return what the edits of one fact have in common, as the table stores it."""
    return json.dumps(edit.fact)


def digest(*parts: str | bytes) -> str:
    """Return the SHA-256 of some parts, in hexadecimal."""
    sha256 = hashlib.sha256()
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        sha256.update(len(content).to_bytes(8, "little") + content)
    return sha256.hexdigest()


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
            stored = connection.execute("SELECT data, digest FROM memories WHERE id = ?", (row.id,)).fetchone()
            if stored is not None and hashlib.sha256(stored[0]).hexdigest() == stored[1]:
                new_digest = digest(row.digest, stored[0])
                connection.execute("UPDATE memories SET digest = ? WHERE id = ?", (new_digest, row.id))
    connection.execute("UPDATE meta SET value = '2' WHERE name = 'format'")
