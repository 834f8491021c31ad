"""The catalogue: which documents there are, where they came from, and what was prepared of them. One SQLite file.

All SQL of the store is in this package. Readers never wait, and writers take turns; see :mod:`diekae.sqlite`.
"""

from pathlib import Path

from diekae.store.catalogue.database import CatalogueDatabase
from diekae.store.catalogue.documents import DocumentSource, DocumentTable, StoredDocument, document_id
from diekae.store.catalogue.health import CatalogueHealth, DocumentHealth
from diekae.store.catalogue.passages import IndexedPassage, PassageTable, PassageVectors
from diekae.store.catalogue.prepared_files import PreparedFile, PreparedFileTable

__all__ = [
    "Catalogue",
    "DocumentHealth",
    "DocumentSource",
    "IndexedPassage",
    "PassageVectors",
    "PreparedFile",
    "StoredDocument",
    "document_id",
]


class Catalogue(CatalogueDatabase):
    """The catalogue's file, with its tables by what they hold.

    Example:
        with catalogue.writing():  # both or neither
            catalogue.prepared_files.delete(file)
            catalogue.documents.delete(document)
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.passages = PassageTable(self)
        self.documents = DocumentTable(self, self.passages)
        self.prepared_files = PreparedFileTable(self)
        self.health = CatalogueHealth(self)
