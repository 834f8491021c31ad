"""Running compiled code as it is written, while hooks must be heard.

``torch.compile`` does not check whether hooks were added to a module since it compiled it, so compiled code would skip
them silently.
"""

from __future__ import annotations

import threading
from typing import Any

import torch

_LOCK = threading.RLock()
_OPEN: set[Any] = set()
"""Blocks of all threads whose hooks must be heard."""
_STANCES: list[Any] = []
"""The stance of the compiler while there are such blocks; it remembers the one before."""


def run_uncompiled(block: object) -> None:
    """Run no compiled code, in any thread of this process, until :func:`allow_compiled` is called for each block.

    Raises:
        RuntimeError: The caller itself is being compiled.
    """
    with _LOCK:
        _OPEN.add(block)
        if not _STANCES:
            try:
                _STANCES.append(torch.compiler.set_stance("force_eager"))
            except RuntimeError as error:
                raise RuntimeError(
                    "knowledge cannot be injected inside a function that is compiled; leave the function that calls "
                    "the model uncompiled. The decoder itself may be compiled."
                ) from error


def allow_compiled(block: object) -> None:
    """End a block; can be called again."""
    with _LOCK:
        _OPEN.discard(block)
        if not _OPEN and _STANCES:
            _STANCES.pop().__exit__(None, None, None)
