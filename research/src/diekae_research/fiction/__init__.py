"""Invented documents that no model has read: names from syllables, facts from templates, questions about them."""

from diekae_research.fiction.document import QUESTIONS, Document, Question, write_documents
from diekae_research.fiction.kinds import KINDS

__all__ = ["KINDS", "QUESTIONS", "Document", "Question", "write_documents"]
