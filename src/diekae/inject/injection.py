"""Injection: a bank's encoders bring K into the decoder's run over x, in the prefill and in cached steps.

One call, step by step:

1. ``DiekaeModel.call_context`` makes an :class:`Injection` from prepared knowledge and masks that say which columns
   receive it. :class:`InputColumns` copies these masks to the CPU once, so that no later forward waits for the device.
2. ``with injection.active():`` refuses a second injection of the same context that would mix with it, and registers
   hooks. They answer only to the thread or task that entered the block.
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

import copy
import threading
import weakref
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor, nn

from diekae.encoders import KnowledgeBatch
from diekae.inject.attached import Attached
from diekae.inject.attention_injector import AttentionInjector
from diekae.inject.cache import cache_in
from diekae.inject.checkpointing import checkpointed_blocks
from diekae.inject.contexts import Claim, HookContext, claims, is_bare
from diekae.inject.difference_injector import DifferenceInjector
from diekae.inject.hookpoints import stack_of
from diekae.inject.hooks import add_contiguous_head
from diekae.inject.input_columns import Forward, InputColumns
from diekae.inject.slots import Watch


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
        columns = InputColumns(receives, valid, receives_later, hidden_anchor)
        # A row without knowledge keeps the decoder's own product, bit for bit.
        self._copies_head_states = bool(columns.with_knowledge.all())
        self._injector: AttentionInjector | DifferenceInjector
        if attached.by_attention:
            self._injector = AttentionInjector(attached, knowledge, columns, watch)
        else:
            self._injector = DifferenceInjector(attached, knowledge, columns)

    def active(self, guard: bool = False) -> HookContext:
        """Return a block that injects into every forward of the decoder that the current context makes inside it.

        Entering it raises ValueError if knowledge of another injection of the current context would mix with this one.

        Args:
            guard: Whether the user's code runs inside the block. Then forwards of threads that were started inside it
                are refused, which would run without knowledge, and any second injection into the decoder.
        """

        def register(context: HookContext) -> None:
            self._add_forward_hooks(context, guard)
            self._injector.add_hooks(context)
            if self._copies_head_states:
                add_contiguous_head(context, attached.decoder)

        attached = self._attached
        return HookContext(register, Claim(attached.decoder, attached.bank, attached.by_attention, held=guard))

    def checkpointed(self) -> AbstractContextManager[None]:
        """Return a block, to be entered inside :meth:`active`, in whose forwards the decoder's blocks are checkpointed.

        The backward pass may follow after both blocks, and in another thread, as on a GPU.
        """
        # The state of the present forward is copied, because the injector drops it at the end of the forward.
        return checkpointed_blocks(self._attached.decoder, lambda: HookContext(copy.copy(self._injector).add_hooks))

    def _add_forward_hooks(self, context: HookContext, guard: bool) -> None:
        """Begin and end the injector's work with every forward of the decoder inside the block."""
        decoder = self._attached.decoder
        # The threads themselves: the system may give the number of one that has ended to the next.
        earlier_threads = weakref.WeakSet(threading.enumerate())

        def before(_module: nn.Module, args: Any, kwargs: Any) -> Any:
            forward = Forward.from_call(args, kwargs, self._rows)
            return args, {**kwargs, **self._injector.begin(forward)}

        def elsewhere() -> None:
            if threading.current_thread() not in earlier_threads:
                _check_thread(decoder)

        def after(_module: nn.Module, _args: Any, kwargs: Any, output: Any) -> None:
            self._injector.end(cache_in(kwargs) or cache_in(output))

        stack = stack_of(decoder)
        context.add_pre_hook(stack, before, elsewhere if guard else None)
        context.add_hook(stack, after)


def _check_thread(decoder: nn.Module) -> None:
    """Refuse the decoder to a thread that has not said whether it runs with knowledge.

    Raises:
        RuntimeError: It has not.
    """
    if not is_bare() and not any(claim.decoder is decoder for claim in claims()):
        raise RuntimeError(
            "this thread was started inside an `injected` block and would run the decoder without knowledge. "
            "Call model.generate(…, knowledge=…) in the thread instead, or run it in the block's context: "
            "contextvars.copy_context().run(…)."
        )
