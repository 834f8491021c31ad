"""Injection: a bank's encoders bring K into the decoder's run over x, in the prefill and in cached steps.

One call, step by step:

1. ``DiekaeModel.behind`` makes an :class:`Injection` from prepared knowledge and from masks that say which columns of x
   receive it. :class:`InputColumns` copies these masks to the CPU once, so that no later forward waits for the device.
2. ``with injection.active():`` refuses a second injection of the same context and registers hooks. They answer only to
   the thread or task that entered the block.
3. Before each forward of the decoder, the hook ``before`` makes a :class:`Forward`: how many columns the cache holds,
   how many are new, and how often the decoder repeats each row. The injector begins with it:

   - :class:`AttentionInjector` (encoder ``attention``) sets positions, so that x begins at 0, and describes the columns
     to the attention of all layers;
   - :class:`DifferenceInjector` (``reader``, ``token``) notes which columns receive. ``token`` computes the differences
     of all layers here, from the embeddings.
4. In each layer of the bank, K enters. ``attention``: the layer's keys are joined to K's slots, the decoder's own
   attention runs over both, and the encoder's MLP is added to its output. ``reader`` and ``token``: the difference is
   added at the hookpoint. Columns that receive nothing keep the decoder's own output, bit for bit.
5. After the forward, the hook ``after`` ends it: what ``token`` keeps of x is stored as one more layer of the decoder's
   cache. All else that belongs to this forward is dropped. Steps 3 to 5 repeat for every generated token.
6. The block ends and all hooks are removed, also after an exception. Nothing of the call remains in the decoder.

Shapes: B rows, L columns of the prompt.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor, nn

from diekae.encoders import KnowledgeBatch
from diekae.inject.attached import Attached
from diekae.inject.attention_injector import AttentionInjector
from diekae.inject.contexts import HookContext, is_bare
from diekae.inject.difference_injector import DifferenceInjector
from diekae.inject.hookpoints import stack_of
from diekae.inject.input_columns import Forward, InputColumns
from diekae.inject.slots import Watch

_ENTERED: ContextVar[tuple[Injection, ...]] = ContextVar("diekae_injections", default=())
"""Injections whose block the current context is inside of."""


class Injection:
    """The injection of one call: made for one batch, and used in one ``with`` block by one context."""

    def __init__(
        self,
        attached: Attached,
        knowledge: KnowledgeBatch,
        receives: Tensor,
        valid: Tensor,
        receives_later: Tensor,
        hidden_anchor: Tensor,
        watch: Watch | None = None,
    ) -> None:
        """Prepare to inject.

        Args:
            attached: The bank and its hookpoints in the decoder.
            knowledge: Prepared knowledge of the B rows.
            receives: Columns of the prompt that receive, bool [B, L].
            valid: Columns of the prompt that are not padding, bool [B, L].
            receives_later: Rows whose columns after the prompt receive too, bool [B].
            hidden_anchor: Columns of x's own anchor that the attention does not see, as it sees the anchor among the
                slots instead; bool [B, L].
            watch: Called with the attention that K's slots get, where the decoder's own attention reads them.
        """
        self._attached, self._rows = attached, len(receives)
        self._active = False  # also tells contexts that were copied inside the block when it has ended
        columns = InputColumns(receives, valid, receives_later, hidden_anchor)
        self._injector: AttentionInjector | DifferenceInjector
        if attached.by_attention:
            self._injector = AttentionInjector(attached, knowledge, columns, watch)
        else:
            self._injector = DifferenceInjector(attached, knowledge, columns)

    @contextmanager
    def active(self, guard: bool = False) -> Iterator[None]:
        """Inject into every forward of the decoder that the current context makes inside the block.

        Args:
            guard: Refuse forwards of threads that were started inside the block, which would run without knowledge.

        Raises:
            ValueError: The current context injects with the same bank, or through the same attention, already.
        """
        self._check_alone()
        with ExitStack() as stack:
            stack.enter_context(self._entered())
            context = stack.enter_context(HookContext())
            stack.enter_context(self._forward_hooks(context, guard))
            stack.enter_context(self._injector.hooks())
            yield

    def _check_alone(self) -> None:
        """Refuse a second injection of the current context that would meet this one.

        Raises:
            ValueError: There is one.
        """
        for other in self._active_here():
            both_by_attention = other._attached.by_attention and self._attached.by_attention
            if other._attached.bank is self._attached.bank or both_by_attention:
                raise ValueError(
                    "this thread is inside another `injected` block of the same model; end that one first. Two "
                    "generators that are advanced in turn need a thread or a context each."
                )

    def _active_here(self) -> list[Injection]:
        """Return the active injections of the current context into the same decoder."""
        decoder = self._attached.decoder
        return [entered for entered in _ENTERED.get() if entered._active and entered._attached.decoder is decoder]

    @contextmanager
    def _entered(self) -> Iterator[None]:
        """Count as active in the current context inside the block; another context may end the block."""
        _ENTERED.set((*_ENTERED.get(), self))
        self._active = True
        try:
            yield
        finally:
            self._active = False
            _ENTERED.set(tuple(entered for entered in _ENTERED.get() if entered is not self))

    @contextmanager
    def _forward_hooks(self, context: HookContext, guard: bool) -> Iterator[None]:
        """Begin and end the injector's work with every forward of the decoder inside the block."""
        # The threads themselves: the system may give the number of one that has ended to the next.
        earlier_threads = weakref.WeakSet(threading.enumerate()) if guard else None

        # `*rest`, read only inside the context: torch keeps a hook and its `with_kwargs` in two places, and another
        # thread may see the one without the other.
        def before(_module: nn.Module, *rest: Any) -> Any:
            if context.entered:
                args, kwargs = rest
                forward = Forward.from_call(args, kwargs, self._rows)
                return args, {**kwargs, **self._injector.begin(forward)}
            if earlier_threads is not None and threading.current_thread() not in earlier_threads:
                self._check_thread()
            return None

        def after(_module: nn.Module, *rest: Any) -> None:
            if context.entered:
                _args, kwargs, output = rest
                self._injector.end(kwargs.get("past_key_values") or getattr(output, "past_key_values", None))

        stack = stack_of(self._attached.decoder)
        with (
            stack.register_forward_pre_hook(before, with_kwargs=True),
            stack.register_forward_hook(after, with_kwargs=True),
        ):
            yield

    def _check_thread(self) -> None:
        """Refuse the decoder to a thread that has not said whether it runs with knowledge.

        Raises:
            RuntimeError: It has not.
        """
        if not is_bare() and not self._active_here():
            raise RuntimeError(
                "this thread was started inside an `injected` block and would run the decoder without knowledge. "
                "Call model.generate(…, knowledge=…) in the thread instead, or run it in the block's context: "
                "contextvars.copy_context().run(…)."
            )
