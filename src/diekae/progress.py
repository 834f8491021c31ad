"""Reports of progress by functions that take long."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with a description of the work, the number of steps that are done, and the number of all steps."""


def silent(_what: str, _done: int, _total: int) -> None:
    """Report nothing."""
