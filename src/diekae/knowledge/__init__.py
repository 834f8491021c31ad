"""Prepared knowledge: what a bank keeps of documents, on disk (`codec.py`), and as a batch (`batch.py`)."""

from diekae.knowledge.batch import Document, Knowledge, Select, batch_knowledge, knowledge_of_rows, split_batch
from diekae.knowledge.prepared import PreparedKnowledge

__all__ = [
    "Document",
    "Knowledge",
    "PreparedKnowledge",
    "Select",
    "batch_knowledge",
    "knowledge_of_rows",
    "split_batch",
]
