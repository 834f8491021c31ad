"""Running compiled code as it is written, while hooks must be heard.

``torch.compile`` does not check whether hooks were added to a module since it compiled it, so compiled code would skip
them silently.
"""

from __future__ import annotations

from functools import cache
from typing import Any
from weakref import WeakSet

# There is no lock: an exception such as that of Ctrl-C could leave one taken, and stop all threads.
_OPEN: WeakSet[Any] = WeakSet()
"""Blocks of all threads whose hooks must be heard. One that an exception left open counts until it is collected."""
_BEFORE: list[Any] = []
"""The last stance of the compiler that was not ours; at most one. It is kept, so that no thread can lose it."""


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


def allow_compiled(block: object) -> None:
    """End a block; can be called again."""
    _OPEN.discard(block)
    compiler, eager = _compiler()
    if not _OPEN and compiler._stance is eager:
        compiler._set_stance(_BEFORE[0])
        if _OPEN:  # another thread has begun a block in the meantime
            _force_eager()


def _force_eager() -> None:
    compiler, eager = _compiler()
    if compiler._stance is not eager:
        _BEFORE[:] = [compiler._stance]
    compiler._set_stance(eager)


@cache
def _compiler() -> tuple[Any, Any]:
    """Return PyTorch's compiler and our own stance of it.

    ``torch.compiler.set_stance`` shows the stance before only after it has set the new one, and an exception between
    the two would lose it. So the stance is read first.
    """
    from torch._dynamo import eval_frame  # takes seconds

    return eval_frame, eval_frame.DynamoStance("force_eager")
