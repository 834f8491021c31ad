"""Knowledge on disk: documents, found by question, and their prepared memory; prepared once and used for ever."""

from diekae.store.catalogue import Entry
from diekae.store.intake import Added
from diekae.store.store import Found, KnowledgeStore
from diekae.store.verify import Fault

__all__ = ["Added", "Entry", "Fault", "Found", "KnowledgeStore"]
