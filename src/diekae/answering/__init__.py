"""Answers from documents: found by the question, read as passages, with their sources and how sure they answer it."""

from diekae.answering.answer import Answer, Source, ask, pick, reply
from diekae.answering.confidence import confidence_of

__all__ = ["Answer", "Source", "ask", "confidence_of", "pick", "reply"]
