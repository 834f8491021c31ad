"""Documents on disk: prepared once, searched by question, read many times."""

from diekae.store.catalogue import StoredDocument
from diekae.store.intake import AddResult
from diekae.store.search import FoundPassage
from diekae.store.store import KnowledgeStore
from diekae.store.verify import Fault

__all__ = ["AddResult", "Fault", "FoundPassage", "KnowledgeStore", "StoredDocument"]
