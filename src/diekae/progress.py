"""Reports of progress by functions that take long."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with a description of the work, the number of steps that are done, and the number of all steps."""
BatchProgress = Callable[[int, int], None]
"""The same for work that needs no description."""


def silent(*_: object) -> None:
    """Report nothing."""
