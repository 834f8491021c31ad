"""Prepared knowledge: what a bank keeps of documents, on disk (`codec.py`), and as a batch (`batch.py`, `rows.py`)."""

from diekae.knowledge.batch import batch_knowledge, split_batch
from diekae.knowledge.prepared import PreparedKnowledge
from diekae.knowledge.rows import Document, Knowledge, knowledge_of_rows

__all__ = ["Document", "Knowledge", "PreparedKnowledge", "batch_knowledge", "knowledge_of_rows", "split_batch"]
