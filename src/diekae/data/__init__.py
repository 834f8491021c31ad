"""Examples: their JSONL format, their sources, mixtures of them, and their tokens."""

from diekae.data.example import DataError, Example, Split, read_examples
from diekae.data.sources import load_source

__all__ = ["DataError", "Example", "Split", "load_source", "read_examples"]
