"""Invented documents that no model has read: names from syllables, facts from templates, questions about them."""

from diekae.data.fiction.document import Document, Question, write_documents
from diekae.data.fiction.kinds import KINDS

__all__ = ["KINDS", "Document", "Question", "write_documents"]
