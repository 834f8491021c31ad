"""Examples: their JSONL format, their sources, mixtures of them, and their tokens."""

from diekae.data.example import DataError, Example, Split, read_examples, write_examples
from diekae.data.mixture import DataSpec, load_mixture
from diekae.data.sources import load_source, source_names

__all__ = [
    "DataError",
    "DataSpec",
    "Example",
    "Split",
    "load_mixture",
    "load_source",
    "read_examples",
    "source_names",
    "write_examples",
]
