"""Give a frozen language model knowledge without spending its context."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diekae.config import DiekaeConfig
    from diekae.memory import Memory
    from diekae.model import DiekaeModel

__all__ = ["DiekaeConfig", "DiekaeModel", "Memory"]

_ROOMS = {"DiekaeConfig": "config", "Memory": "memory", "DiekaeModel": "model"}


def __getattr__(name: str) -> Any:
    """Import what is asked for, and with it PyTorch and Transformers, which take seconds (PEP 562)."""
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    """Name what can be imported."""
    return sorted({*globals(), *__all__})
