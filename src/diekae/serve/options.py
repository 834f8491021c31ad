"""The limits of a server. No module of the extra `serve` is imported here, so that the command line can name them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EngineOptions:
    """How requests share the decoder."""

    batch_size: int = 8
    """Most answers that are generated at once."""
    queue_size: int = 64
    """Most answers that wait; more are refused."""
    batch_tokens: int = 131_072
    """Most tokens of a batch: its rows times the longest row, with knowledge and the answer. One row always runs."""
    wait: float = 0.005
    """Seconds that the first request of a batch waits for others."""


@dataclass(frozen=True)
class ServerOptions:
    """Limits of a server."""

    most_tokens: int = 1024
    """Longest answer, in tokens."""
    most_body: int = 2_000_000
    """Most bytes of a request; an upload has a limit of its own."""
    most_file: int = 20_000_000
    """Most bytes of an uploaded file."""
    most_waiting_files: int = 1000
    """Most uploaded files that wait to be prepared."""
    most_knowledge: int = 32_768
    """Most tokens of one document, and of what one request reads."""
    timeout: float = 300.0
    """Seconds after which a request is given up."""
