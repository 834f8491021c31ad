"""Give a frozen language model knowledge without spending its context."""

from diekae.config import DiekaeConfig
from diekae.memory import Memory
from diekae.model import DiekaeModel

__all__ = ["DiekaeConfig", "DiekaeModel", "Memory"]
