"""Columns for x's own anchor that are not computed, because nothing sees them: x sees the anchor among K's slots.

Shapes: B rows, L columns of the prompt, a columns of the anchor, G key heads, d head size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

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
"""Options of ``generate`` that only choose the next token: with them a row stays one row, a cache only grows, and
nobody but the decoder gets it."""
_SETTINGS: dict[str, tuple[Any, ...]] = {
    "num_beams": (None, 1),
    "num_return_sequences": (None, 1),
    "use_cache": (None, True),
    "cache_implementation": (None,),
    "prompt_lookup_num_tokens": (None,),
    "assistant_early_exit": (None,),
    "use_mtp": (None, False),
    "return_dict_in_generate": (None, False),
}
"""Settings of ``generate`` that must have one of these values for the same reason."""


class _UnseenLayer(DynamicLayer):
    """A layer that begins with columns of zeros."""

    def __init__(self, columns: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.columns = columns

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Make the columns, like the first keys and values [B, G, T, d] that follow them."""
        super().lazy_initialization(key_states, value_states)
        self.keys, self.values = _zeros(key_states, self.columns), _zeros(value_states, self.columns)

    def get_seq_length(self) -> int:
        """Return the number of columns."""
        return super().get_seq_length() if self.is_initialized else self.columns


class _UnseenWindowLayer(DynamicSlidingWindowLayer):
    """A layer with a sliding window that begins with columns of zeros."""

    def __init__(self, columns: int, window: int) -> None:
        super().__init__(window)
        self.cumulative_length = columns

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Make as many of the columns as the window holds; see :class:`_UnseenLayer`."""
        super().lazy_initialization(key_states, value_states)
        columns = min(self.cumulative_length, self.sliding_window - 1)
        self.keys, self.values = _zeros(key_states, columns), _zeros(value_states, columns)


def _zeros(states: Tensor, columns: int) -> Tensor:
    """Return zeros [B, G, columns, d]: a weight of 0 times what were not finite would not be 0."""
    return states.new_zeros(*states.shape[:2], columns, states.shape[3])


def unseen_columns(decoder: PreTrainedModel, layers: int, columns: int) -> Cache | None:
    """Return a cache that begins with columns that were not computed; None if not all of its layers only grow.

    Args:
        decoder: The decoder.
        layers: How many of its layers do not see the columns; None is returned if there are others.
        columns: Their number.
    """
    cache = DynamicCache(config=decoder.config)
    if len(cache.layers) != layers:
        return None
    for number, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer:
            cache.layers[number] = _UnseenLayer(columns)
        elif type(layer) is DynamicSlidingWindowLayer:
            cache.layers[number] = _UnseenWindowLayer(columns, layer.sliding_window)
        else:
            return None
    return cache


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
    """Tell whether these options of ``generate`` let it go on behind columns that were not computed."""
    settings = decoder.generation_config
    values = {name: options.get(name, getattr(settings, name, None)) for name in _SETTINGS}
    # In training, gradient checkpointing drops caches.
    same = not decoder.training and all(value in _SETTINGS[name] for name, value in values.items())
    return same and options.keys() <= _STEPWISE_OPTIONS
