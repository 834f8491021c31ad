"""The catalogue's table of files of prepared knowledge: at most one for each document and bank."""

from dataclasses import astuple, dataclass

from diekae.store.catalogue.database import CatalogueDatabase
from diekae.store.catalogue.tables import COLUMNS, insert, is_whole


@dataclass(frozen=True)
class PreparedFile:
    """One file of prepared knowledge; the fields are the columns of the table, in their order."""

    document: str
    """Id of the document."""
    bank: str
    """Which bank prepared it; see :attr:`diekae.store.KnowledgeStore.bank`."""
    file: str
    """Path in the store's folder. It may be any text: check it with :func:`diekae.store.layout.path_in_store`."""
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
        self._database = database

    def select(self, bank: str, document: str) -> PreparedFile | None:
        """Return the file of one bank and document; None if there is none, ValueError if its row is damaged."""
        query = f"SELECT {COLUMNS['memories']}, {is_whole('memories')} FROM memories WHERE document = ? AND bank = ?"
        for *values, whole in self._database.rows(query, document, bank):
            self._database.check_rows(whole, f"what was prepared of document {document[:12]}")
            return PreparedFile(*values)
        return None

    def all(self) -> dict[PreparedFile, bool]:
        """Return all files, each with whether its row is undamaged, sorted by path."""
        query = f"SELECT {COLUMNS['memories']}, {is_whole('memories')} FROM memories ORDER BY file"
        return {PreparedFile(*values): bool(whole) for *values, whole in self._database.rows(query)}

    def contains(self, file: PreparedFile) -> bool:
        """Tell whether a file still has its row."""
        return bool(self._database.rows("SELECT 1 FROM memories WHERE file = ?", file.file))

    def only_bank(self) -> str:
        """Return the bank that has prepared something, if it is the only one; otherwise an empty text."""
        with self._database.reading() as connection:
            # Two look-ups in the index: DISTINCT would read all of it.
            first, last = (connection.execute(f"SELECT {f}(bank) FROM memories").fetchone()[0] for f in ("min", "max"))
        return str(first) if first is not None and first == last else ""

    def insert(self, file: PreparedFile) -> None:
        """Add a file's row."""
        with self._database.writing() as connection:
            connection.execute(insert("memories"), astuple(file))

    def delete(self, file: PreparedFile) -> None:
        """Remove a file's row."""
        with self._database.writing() as connection:
            connection.execute("DELETE FROM memories WHERE file = ?", (file.file,))
