"""An OpenAI-compatible server over a decoder, its documents and its edits, with a page."""

from diekae.serve.access import Keys
from diekae.serve.app import create_app
from diekae.serve.engine import EngineOptions
from diekae.serve.state import ServerOptions

__all__ = ["EngineOptions", "Keys", "ServerOptions", "create_app"]
