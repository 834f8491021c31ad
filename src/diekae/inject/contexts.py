"""Which thread or task a hook answers to, and running the decoder without injection.

All of it rests on context variables: a thread or task that did not enter a block does not see it, and one that copied
the context inside the block does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_ENTERED: ContextVar[frozenset[HookContext]] = ContextVar("diekae_entered", default=frozenset())
_BARE: ContextVar[bool] = ContextVar("diekae_bare", default=False)


class HookContext:
    """A ``with`` block whose hooks answer only to the thread or task that entered it, and to copies of its context.

    Example:
        with HookContext() as context:
            module.register_forward_hook(lambda *_: act() if context.entered else None)
    """

    def __enter__(self) -> HookContext:
        """Enter the block in the current context."""
        _ENTERED.set(_ENTERED.get() | {self})
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the block; another context than the one that entered may do so."""
        _ENTERED.set(_ENTERED.get() - {self})

    @property
    def entered(self) -> bool:
        """Tell whether the current context is inside the block."""
        return self in _ENTERED.get()


@contextmanager
def bare() -> Iterator[None]:
    """Allow the decoder to run without knowledge inside the block, although other threads inject into it."""
    token = _BARE.set(True)
    try:
        yield
    finally:
        _BARE.reset(token)


def is_bare() -> bool:
    """Tell whether the current context is inside a :func:`bare` block."""
    return _BARE.get()


@contextmanager
def paused() -> Iterator[None]:
    """Run the decoder inside the block without any hook of the current context."""
    entered = _ENTERED.get()
    _ENTERED.set(frozenset())
    try:
        with bare():
            yield
    finally:
        _ENTERED.set(_ENTERED.get() | entered)
