"""Caches of the decoder: copies that grow apart, and the slots that causal encoders keep of x."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from diekae.encoders import KnowledgeBatch


def cache_in(call: Any) -> Cache | None:
    """Return the cache among a call's keyword arguments or in its output, by its type; None if there is none.

    Its name is not asked for, because Transformers has changed it. An output that is a tuple has none.
    """
    values = call.values() if isinstance(call, Mapping) else ()
    return next((value for value in values if isinstance(value, Cache)), None)


def forked(cache: Cache) -> Cache:
    """Copy a cache without copying its tensors. The copy can grow; the original keeps its length."""
    twin = copy.copy(cache)
    twin.layers = [copy.copy(layer) for layer in cache.layers]
    return twin


class EncoderCacheLayer(DynamicLayer):
    """What causal encoders keep of x, as one more layer of the decoder's own cache.

    So beam search, cropping and repetition change it as they change the decoder's keys and values.
    """

    is_compileable = True
    """A cache is compileable if all of its layers are, and Transformers masks the free columns of such caches alone;
    so the decoder's own layers decide."""

    def __init__(self, slots: KnowledgeBatch) -> None:
        """Hold the slots of x."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.slots = slots

    def get_seq_length(self) -> int:
        """Return the number of slots."""
        return self.slots.mask.shape[1]

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Follow the beams that survive."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Select rows."""
        self.slots = self.slots.map(lambda tensor, dim: tensor.index_select(dim, indices.to(tensor.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row."""
        self.slots = self.slots.map(lambda tensor, dim: tensor.repeat_interleave(repeats, dim))

    def crop(self, tokens_to_remove: int) -> None:
        """Drop the last ``-tokens_to_remove`` columns of x."""
        if tokens_to_remove < 0:
            old, end = self.slots, self.slots.mask.shape[1] + tokens_to_remove
            tensors = {name: tensor[:, :, :end] for name, tensor in old.tensors.items()}
            self.slots = KnowledgeBatch(tensors, old.mask[:, :end], old.token_count - old.mask[:, end:].sum(1))

    def reset(self) -> None:
        """Drop everything; the next forward begins anew."""
        self.slots = self.slots.map(lambda tensor, _dim: tensor[:0])


def encoder_layer(cache: Cache | None) -> EncoderCacheLayer | None:
    """Return the encoders' layer of a cache, or None."""
    layers = getattr(cache, "layers", [])
    return layers[-1] if layers and isinstance(layers[-1], EncoderCacheLayer) else None
