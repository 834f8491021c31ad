"""The decoder's own cache of the anchor, which every question begins with, so that it is read once and not each time.

Shapes: B rows, L columns of the prompt, a columns of the anchor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from diekae.inject.attention_interface import implementation
from diekae.inject.cache import forked
from diekae.inject.contexts import bare
from diekae.inject.hookpoints import stack_of
from diekae.knowledge import PreparedKnowledge

_STEPWISE_OPTIONS = {
    "do_sample",
    "eos_token_id",
    "logits_processor",
    "max_length",
    "max_new_tokens",
    "min_new_tokens",
    "num_beams",
    "pad_token_id",
    "stopping_criteria",
    "streamer",
    "temperature",
    "top_k",
    "top_p",
    "use_cache",
}
"""Options of ``generate`` that only choose the next token: with them a row stays one row, and a cache only grows."""
_SETTINGS = {"num_beams": 1, "num_return_sequences": 1, "use_cache": True, "cache_implementation": None}
"""Settings of ``generate`` that must have these values, or none, for the same reason."""


class AnchorCache:
    """Holds the decoder's keys and values of the last anchor, until the decoder's weights change."""

    def __init__(self) -> None:
        """Hold nothing."""
        self._last: tuple[object, Cache] | None = None

    def get(self, decoder: PreTrainedModel, anchor: Tensor) -> Cache | None:
        """Return a cache of the anchor's columns [B, a], to which others can be added; None where copies share states.

        The columns behind it have the values that they have without it, up to rounding.
        """
        parameters = list(decoder.parameters())
        weights = [(0 if weight.is_inference() else weight._version, weight.data_ptr()) for weight in parameters]
        state = anchor.tolist(), weights, implementation(decoder)
        last = self._last
        if last is None or last[0] != state:
            cache = DynamicCache(config=decoder.config)
            if not all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers):
                return None
            with torch.no_grad(), bare():
                stack_of(decoder)(input_ids=anchor, past_key_values=cache, use_cache=True)
            self._last = last = state, cache
        return forked(last[1])


def anchor_length(rows: Sequence[PreparedKnowledge | None], input_ids: Tensor, mask: Tensor | None) -> int:
    """Return how many columns the anchor has that x begins with; 0 if rows differ, or if nothing comes after it.

    Args:
        rows: Prepared knowledge of each row; a row without any must be read as ever, so that it stays bit-identical.
        input_ids: The prompt, int64 [B, L].
        mask: 0 at padding, [B, L].
    """
    lengths = {0 if row is None else len(row.anchor_ids) for row in rows}
    padded = mask is not None and not bool(mask.all())
    length = lengths.pop() if len(lengths) == 1 else 0
    return length if not padded and length < input_ids.shape[1] else 0


def is_stepwise(decoder: PreTrainedModel, options: Mapping[str, Any]) -> bool:
    """Tell whether these options of ``generate`` let it go on from a cache of the anchor."""
    settings = decoder.generation_config
    values = {name: options.get(name, getattr(settings, name, None)) for name in _SETTINGS}
    same = all(value in (None, _SETTINGS[name]) for name, value in values.items())
    return same and options.keys() <= _STEPWISE_OPTIONS
