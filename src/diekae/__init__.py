"""Give a frozen language model knowledge without spending its context."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diekae.answering import ask
    from diekae.config import DiekaeConfig
    from diekae.editing import Edit
    from diekae.memory import Memory
    from diekae.model import DiekaeModel
    from diekae.models import load_decoder
    from diekae.store import KnowledgeStore
    from diekae.version import __version__

__all__ = ["DiekaeConfig", "DiekaeModel", "Edit", "KnowledgeStore", "Memory", "__version__", "ask", "load_decoder"]

_ROOMS = {
    "DiekaeConfig": "config",
    "DiekaeModel": "model",
    "Edit": "editing",
    "KnowledgeStore": "store",
    "Memory": "memory",
    "__version__": "version",
    "ask": "answering",
    "load_decoder": "models",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for, and with it PyTorch and Transformers, which take seconds (PEP 562)."""
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    """Name what can be imported."""
    return sorted({*globals(), *__all__})
