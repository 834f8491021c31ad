"""Injection by encoders that compute the difference themselves (the encoders ``reader`` and ``token``).

Shapes: b rows as the decoder runs them, T columns of one forward, N encoders, W decoder width.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import Cache

from diekae.encoders import KnowledgeBatch
from diekae.inject.attached import Attached
from diekae.inject.cache import EncoderCacheLayer, encoder_layer
from diekae.inject.contexts import HookContext
from diekae.inject.hookpoints import stack_of
from diekae.inject.hooks import add_hook, keep_where
from diekae.inject.input_columns import Forward, InputColumns


class DifferenceInjector:
    """Adds the encoders' differences to the outputs at their hookpoints."""

    def __init__(self, attached: Attached, knowledge: KnowledgeBatch, columns: InputColumns) -> None:
        """Prepare one call; arguments as for :class:`diekae.inject.injection.Injection`."""
        self._attached, self._knowledge, self._columns = attached, knowledge, columns
        self._bank = attached.bank
        self._numbers = attached.numbers
        self._began = False
        self._clear()

    def _clear(self) -> None:
        """Drop what belongs to one forward."""
        self._receives: Tensor | None = None
        self._valid: Tensor | None = None
        self._differences: Tensor | None = None
        self._x_cache: KnowledgeBatch | None = None

    def add_hooks(self, context: HookContext) -> None:
        """Add differences at the hookpoints inside a block that is being entered."""
        add_hook(context, self._attached.hookpoints, self._difference)

    def begin(self, forward: Forward) -> dict[str, Any]:
        """Prepare a forward; encoders of embeddings compute all differences now.

        Returns:
            The keyword arguments of the decoder to change: none.
        """
        self._clear()
        self._began = True
        columns = self._columns
        if not columns.any_receives(forward.start):
            return {}
        if columns.any_receives(forward.start, forward.stop):
            self._receives = columns.receives_in(forward)
        self._valid = columns.valid_in(forward)
        if self._bank.encoder.reads == "embeddings":
            embeddings = forward.embeddings
            if embeddings is None:
                embeddings = self._attached.decoder.get_input_embeddings()(forward.ids)
            layer = encoder_layer(forward.cache) if forward.start else None
            encoded = self._bank(
                self._knowledge.repeat(forward.repeats),
                embeddings[None].to(self._bank.dtype),
                self._valid,
                x_cache=None if layer is None else layer.slots,
            )
            self._differences, self._x_cache = encoded.difference, encoded.x_cache
        return {}

    def end(self, cache: Cache | None) -> None:
        """Finish a forward: store what causal encoders keep of x in the decoder's own cache, if there is one."""
        if self._x_cache is not None and cache is not None:
            layer = encoder_layer(cache)
            if layer is None:
                cache.layers.append(EncoderCacheLayer(self._x_cache))
            else:
                layer.slots = self._x_cache
        self._clear()
        self._began = False

    def _difference(self, layer: int, stream: Tensor, _output: Tensor) -> Tensor | None:
        """Return what is added at a hookpoint, [b, T, W]; None where no column receives."""
        decoder = self._attached.decoder
        assert self._began, f"{type(decoder).__name__} runs its blocks without calling {type(stack_of(decoder))}"
        if self._valid is None or self._receives is None:
            return None
        number, stream = self._numbers[layer], stream.to(self._bank.bias.device)
        if self._differences is not None:
            return keep_where(self._receives, self._differences[number], stream)
        knowledge = self._knowledge.repeat(stream.shape[0] // len(self._columns.receives))
        difference = self._bank(knowledge, stream[None], self._valid, slice(number, number + 1)).difference[0]
        return keep_where(self._receives, difference, stream)
