"""Running compiled code as it is written, while hooks must be heard.

``torch.compile`` does not check whether hooks were added to a module since it compiled it, so compiled code would skip
them silently.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any
from weakref import WeakSet

import torch

# There is no lock: an exception such as that of Ctrl-C could leave one taken, and stop all threads.
_OPEN: WeakSet[Any] = WeakSet()
"""Blocks of all threads whose hooks must be heard. One that an exception left open counts until it is collected."""
_BEFORE: list[Any] = []
"""What brings back the stance of the compiler before there were any; at most one."""


def run_uncompiled(block: object) -> None:
    """Run no compiled code, in any thread of this process, until :func:`allow_compiled` is called for each block.

    Raises:
        RuntimeError: The caller itself is being compiled.
    """
    _OPEN.add(block)
    try:
        _force_eager()
    except RuntimeError as error:
        raise RuntimeError(
            "knowledge cannot be injected by a block inside a function that is compiled; leave the function "
            "uncompiled. The decoder itself may be compiled."
        ) from error


def _force_eager() -> None:
    stance: Any = torch.compiler.set_stance("force_eager")
    if stance.prev.stance != "force_eager":
        _BEFORE[:] = [stance]


def allow_compiled(block: object) -> None:
    """End a block; can be called again."""
    _OPEN.discard(block)
    if not _OPEN:
        with suppress(IndexError):  # another thread may have been faster
            _BEFORE.pop().__exit__(None, None, None)
        if _OPEN:  # another thread has begun a block in the meantime
            _force_eager()
