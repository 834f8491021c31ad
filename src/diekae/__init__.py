"""Give a frozen language model knowledge without spending its context."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diekae.answering import ask
    from diekae.config import DiekaeConfig
    from diekae.edit import Edit, edit_model, load_edits
    from diekae.knowledge import PreparedKnowledge
    from diekae.model import DiekaeModel
    from diekae.models import load_decoder
    from diekae.run.rank import rank
    from diekae.store import KnowledgeStore
    from diekae.version import __version__

__all__ = [
    "DiekaeConfig",
    "DiekaeModel",
    "Edit",
    "KnowledgeStore",
    "PreparedKnowledge",
    "__version__",
    "ask",
    "edit_model",
    "load_decoder",
    "load_edits",
    "rank",
]

_MODULES = {
    "DiekaeConfig": "config",
    "DiekaeModel": "model",
    "Edit": "edit",
    "KnowledgeStore": "store",
    "PreparedKnowledge": "knowledge",
    "__version__": "version",
    "ask": "answering",
    "edit_model": "edit",
    "load_decoder": "models",
    "load_edits": "edit",
    "rank": "run.rank",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is first used (PEP 562), because PyTorch and Transformers take seconds to import."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    """Return the names that can be imported."""
    return sorted({*globals(), *__all__})
