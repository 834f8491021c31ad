"""The catalogue's table of files of prepared knowledge: at most one for each document and bank."""

from __future__ import annotations

from dataclasses import astuple, dataclass

from diekae.store.catalogue.database import CatalogueDatabase


@dataclass(frozen=True)
class PreparedFile:
    """One file of prepared knowledge; the fields are the columns of the table, in their order."""

    document: str
    """Id of the document."""
    bank: str
    """Which bank prepared it; see :attr:`diekae.store.KnowledgeStore.bank`."""
    file: str
    """Path in the store's folder."""
    sha256: str
    """Digest of the file."""
    bytes: int
    """Size of the file."""
    slots: int
    """Slots of the prepared knowledge."""
    precision: str
    """How it is kept: ``exact``, ``bf16`` or ``int8``."""


class PreparedFileTable:
    """The rows of the files of prepared knowledge."""

    def __init__(self, database: CatalogueDatabase) -> None:
        """Use the tables of this database."""
        self._database = database

    def select(self, bank: str | None = None, document: str | None = None) -> list[PreparedFile]:
        """Return the files of one bank or of all, of one document or of all."""
        query = (
            "SELECT document, bank, file, sha256, bytes, slots, precision FROM memories"
            " WHERE (?1 IS NULL OR bank = ?1) AND (?2 IS NULL OR document = ?2) ORDER BY file"
        )
        with self._database.reading() as connection:
            return [PreparedFile(*row) for row in connection.execute(query, (bank, document))]

    def banks(self) -> list[str]:
        """Return the banks that have prepared something."""
        with self._database.reading() as connection:
            return [row[0] for row in connection.execute("SELECT DISTINCT bank FROM memories ORDER BY bank")]

    def insert(self, file: PreparedFile) -> None:
        """Add a file's row."""
        with self._database.writing() as connection:
            connection.execute("INSERT INTO memories VALUES (?, ?, ?, ?, ?, ?, ?)", astuple(file))

    def delete(self, file: PreparedFile) -> None:
        """Remove a file's row."""
        with self._database.writing() as connection:
            connection.execute("DELETE FROM memories WHERE file = ?", (file.file,))
