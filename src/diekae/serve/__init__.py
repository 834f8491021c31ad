"""An OpenAI-compatible server over a decoder, its documents and its edits, with a page."""

from typing import TYPE_CHECKING, Any

from diekae.serve.access import Keys
from diekae.serve.options import EngineOptions, ServerOptions

if TYPE_CHECKING:
    from diekae.serve.app import create_app

__all__ = ["EngineOptions", "Keys", "ServerOptions", "create_app"]


def __getattr__(name: str) -> Any:
    """Import :func:`create_app` when it is asked for, because it needs the extra `serve`."""
    if name != "create_app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from diekae.serve.app import create_app

    return create_app
