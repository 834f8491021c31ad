"""Which thread or task a hook answers to, and running the decoder without injection.

All of it rests on context variables: a thread or task that did not enter a block does not see it, and one that copied
the context inside the block does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from torch import nn

from diekae.inject.uncompiled import allow_compiled, run_uncompiled

_ENTERED: ContextVar[frozenset[Entry]] = ContextVar("diekae_entered", default=frozenset())
_BARE: ContextVar[bool] = ContextVar("diekae_bare", default=False)


@dataclass(frozen=True, eq=False)
class Claim:
    """What a block injects into, to refuse a second block whose knowledge would mix with that of the first."""

    decoder: nn.Module
    bank: nn.Module | None = None
    """None for a block without knowledge."""
    by_attention: bool = False
    """Whether the decoder's attention reads the bank's slots."""
    held: bool = False
    """Whether the user's code runs inside the block; otherwise the block ends with one call of the model."""

    def excludes(self, other: Claim) -> bool:
        """Tell whether no context may be inside both blocks at once."""
        same_bank = self.bank is not None and self.bank is other.bank
        mix = self.held or other.held or same_bank or (self.by_attention and other.by_attention)
        return self.decoder is other.decoder and mix


class Entry:
    """One entry of a :class:`HookContext`. Hooks refer to it and not to their block, which ends when it is dropped."""

    def __init__(self, claim: Claim | None) -> None:
        """Take what the block injects into, if it does."""
        self.claim = claim
        self.open = False
        """Whether the block has begun and not ended, in any context."""

    @property
    def current(self) -> bool:
        """Tell whether the current context is inside the block."""
        return self.open and self in _ENTERED.get()


class HookContext:
    """A ``with`` block whose hooks answer only to the thread or task that entered it, and to copies of its context.

    An exception at any instant, such as that of Ctrl-C, leaves no hook that answers: hooks are removed by what they
    are, so a registration that was interrupted before it returned is found too. Compiled code runs uncompiled
    meanwhile, because it would skip the hooks.

    Example:
        with HookContext(lambda context: context.add_hook(module, lambda *_: act())):
            decoder(ids)
    """

    def __init__(
        self, register: Callable[[HookContext], None] = lambda _context: None, claim: Claim | None = None
    ) -> None:
        """Describe a block.

        Args:
            register: Called when the block begins, to add its hooks.
            claim: What the block injects into; a block that it excludes is refused in the same context.
        """
        self._begun = False
        self.entry = Entry(claim)
        self._register = register
        self._added: list[tuple[nn.Module, str, Callable[..., Any]]] = []

    def add_pre_hook(
        self, module: nn.Module, hook: Callable[..., Any], elsewhere: Callable[[], None] | None = None
    ) -> None:
        """Register a hook that runs before a module, as ``hook(module, args, kwargs)``.

        Args:
            module: The module.
            hook: Called in the context that entered the block.
            elsewhere: Called in other contexts while the block is open, if given.
        """
        answer = self._answering(hook, elsewhere)
        self._added.append((module, "_forward_pre_hooks", answer))
        module.register_forward_pre_hook(answer, with_kwargs=True)

    def add_hook(self, module: nn.Module, hook: Callable[..., Any]) -> None:
        """Register a hook that runs after a module, as ``hook(module, args, kwargs, output)``."""
        answer = self._answering(hook)
        self._added.append((module, "_forward_hooks", answer))
        module.register_forward_hook(answer, with_kwargs=True)

    def _answering(self, hook: Callable[..., Any], elsewhere: Callable[[], None] | None = None) -> Callable[..., Any]:
        """Return a hook that calls another one in the block's context alone."""
        entry = self.entry

        # `*rest` is passed on only inside the context: torch keeps a hook and its `with_kwargs` in two places, and
        # another thread may see the one without the other.
        def answer(module: nn.Module, *rest: Any) -> Any:
            if entry.current:
                return hook(module, *rest)
            if elsewhere is not None and entry.open:
                elsewhere()
            return None

        return answer

    def __enter__(self) -> HookContext:
        """Enter the block in the current context.

        Raises:
            ValueError: The current context is inside a block that excludes this one.
        """
        if self.entry.claim is not None:
            check_claim(self.entry.claim)
        try:
            self._begun = self.entry.open = True
            _ENTERED.set(frozenset(entry for entry in _ENTERED.get() if entry.open) | {self.entry})
            run_uncompiled(self.entry)
            self._register(self)
        except BaseException:
            self._close_for_sure()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the block; another context than the one that entered may do so."""
        self._close_for_sure()

    def __del__(self) -> None:
        """Leave a block that an exception has interrupted as it was being left."""
        if getattr(self, "_begun", False):
            self._close_for_sure()

    def _close_for_sure(self) -> None:
        """Leave the block, also if an exception such as that of Ctrl-C interrupts this once."""
        try:
            self._close()
        finally:
            self._close()

    def _close(self) -> None:
        """Leave the block; can be called again."""
        self.entry.open = False
        while self._added:
            module, kind, hook = self._added[-1]
            for number, registered in list(getattr(module, kind).items()):
                if registered is hook:
                    # As `RemovableHandle.remove` does, which needs the handle that an interruption may have lost.
                    getattr(module, f"{kind}_with_kwargs").pop(number, None)
                    getattr(module, kind).pop(number, None)
            self._added.pop()
        allow_compiled(self.entry)
        _ENTERED.set(_ENTERED.get() - {self.entry})
        self._begun = False


def claims() -> list[Claim]:
    """Return what is injected into in the current context."""
    return [entry.claim for entry in _ENTERED.get() if entry.open and entry.claim is not None]


def check_claim(claim: Claim) -> None:
    """Refuse an injection whose knowledge would mix with that of another one of the current context.

    Raises:
        ValueError: The current context is inside a block that excludes the claim.
    """
    if any(claim.excludes(other) for other in claims()):
        raise ValueError(
            "this thread is inside another `injected` block of the same model; end that one first, or call "
            "model.decoder inside it. Two generators that are advanced in turn need a thread or a context each."
        )


@contextmanager
def bare() -> Iterator[None]:
    """Allow the decoder to run without knowledge inside the block, although other threads inject into it."""
    before = _BARE.get()
    try:
        _BARE.set(True)
        yield
    finally:
        _BARE.set(before)


def is_bare() -> bool:
    """Tell whether the current context is inside a :func:`bare` block."""
    return _BARE.get()


@contextmanager
def paused() -> Iterator[None]:
    """Run the decoder inside the block without any hook of the current context."""
    entered = _ENTERED.get()
    try:
        _ENTERED.set(frozenset())
        with bare():
            yield
    finally:
        _ENTERED.set(_ENTERED.get() | entered)
