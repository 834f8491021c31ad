"""The rows of a store of edits, each with a digest of everything that it says, so that damage to any of it shows."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import NamedTuple

from diekae.edit.edit import Edit

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
        row = cls(number, fact_key(edit), edit_json(edit), "", created, reverted)
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
        """Return the edit.

        Raises:
            ValueError: The text is not that of an edit.
        """
        try:
            values = json.loads(self.text)
            return Edit(**{**values, "aliases": tuple(values["aliases"])})
        except (KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"not an edit: {error}") from error


def edit_json(edit: Edit) -> str:
    """Return an edit as JSON."""
    return json.dumps(asdict(edit), sort_keys=True)


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
