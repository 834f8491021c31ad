"""Gradient checkpointing: a decoder's blocks drop what they computed, and compute it again in the backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import chain, repeat
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from diekae.inject.contexts import Entry, HookContext
from diekae.inject.hookpoints import find_blocks


@contextmanager
def checkpointed_blocks(decoder: PreTrainedModel, resume: Callable[[], HookContext]) -> Iterator[None]:
    """Checkpoint the blocks in every forward of the current context inside this block.

    Transformers' own checkpointing needs the decoder in training mode, with dropout, and computes again after the
    injection has ended.

    Args:
        decoder: The decoder.
        resume: Called in each block's forward. Returns the hooks with which that forward is repeated.
    """
    blocks = list(find_blocks(decoder))
    replaced = [vars(block).get("forward") for block in blocks]  # accelerate, too, replaces `forward`
    with HookContext() as context:
        try:
            for block in blocks:
                block.forward = _checkpointed(block, block.forward, context.entry, resume)
            yield
        finally:
            for block, forward in zip(blocks, replaced, strict=True):
                vars(block).pop("forward", None)
                if forward is not None:
                    block.forward = forward


def _checkpointed(
    block: nn.Module, forward: Callable[..., Any], entry: Entry, resume: Callable[[], HookContext]
) -> Callable[..., Any]:
    """Return a forward that is checkpointed in the context of ``entry``."""

    def run(*args: Any, **kwargs: Any) -> Any:
        if not entry.current:
            return forward(*args, **kwargs)
        # The repetition calls the block itself: hooks inside the block need what those before it store.
        calls: Iterator[Callable[..., Any]] = chain([forward], repeat(block))
        return checkpoint(
            lambda *inputs, **options: next(calls)(*inputs, **options),
            *args,
            use_reentrant=False,
            context_fn=lambda: (nullcontext(), resume()),
            **kwargs,
        )

    return run
