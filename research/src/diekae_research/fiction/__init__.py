"""Invented documents that no model has read: names from syllables, facts from templates, questions about them.

`kind.py` explains the template files `kinds/*.toml`, and how to add one.
"""

from diekae_research.fiction.document import QUESTIONS, Document, Question, write_documents
from diekae_research.fiction.kind import KINDS

__all__ = ["KINDS", "QUESTIONS", "Document", "Question", "write_documents"]
