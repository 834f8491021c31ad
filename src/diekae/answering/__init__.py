"""Answers from documents: passages found by the question are read, with their sources and a confidence."""

from diekae.answering.answer import Answer, ask, pick, reply
from diekae.answering.confidence import confidence_of
from diekae.answering.sources import Source

__all__ = ["Answer", "Source", "ask", "confidence_of", "pick", "reply"]
