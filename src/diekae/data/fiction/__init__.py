"""Invented documents that no model has read: names from syllables, facts from templates, questions about them."""

from diekae.data.fiction.document import QUESTIONS, Document, Question, write_documents
from diekae.data.fiction.kinds import KINDS

__all__ = ["KINDS", "QUESTIONS", "Document", "Question", "write_documents"]
