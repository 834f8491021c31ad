"""Columns for x's own anchor that are not computed.

In the bank's layers nothing sees them: x sees the anchor among K's slots. What other layers see of them was kept when K
was prepared.

Shapes: B rows, L columns of the prompt, M layers without an encoder, a columns of the anchor, G key heads, d head size.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from diekae.knowledge import PreparedKnowledge
from diekae.placement import stays

_NAMES = ("keys", "values")
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


def unseen_columns(
    decoder: PreTrainedModel, layers: Collection[int], rows: Sequence[PreparedKnowledge], columns: int
) -> Cache | None:
    """Return a cache that begins with the anchor; None if x must read its anchor.

    x must, if what the cache holds was not kept, if not all layers only grow, or if the decoder is spread over devices.

    Args:
        decoder: The decoder.
        layers: Layers that do not see x's own anchor. Their columns are zeros: a weight of 0 times what were not finite
            would not be 0.
        rows: Prepared knowledge of each row, with the anchor of the other layers.
        columns: The anchor's length.
    """
    cache = DynamicCache(config=decoder.config)
    others = [number for number in range(len(cache.layers)) if number not in layers]
    kept = {len(row.bare_anchor["keys"]) if row.bare_anchor else 0 for row in rows}
    cache_layers: list[Any] = cache.layers
    grow = all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache_layers)
    if not grow or len(cache_layers) != len(layers) + len(others) or kept != {len(others)}:
        return None
    if stays(decoder) or (others and _is_hooked(decoder)):
        return None
    shapes = [(len(rows), heads, columns, size) for heads, size in (rows[0].tensors[n].shape[2:] for n in _NAMES)]
    zeros = [torch.zeros(shape, dtype=decoder.dtype, device=decoder.device) for shape in shapes]
    for number in layers:
        cache_layers[number].update(*zeros)
    if others:
        anchors = [torch.stack([row.bare_anchor[name] for row in rows], 1).to(decoder.dtype) for name in _NAMES]
        for number, *states in zip(others, *anchors, strict=True):
            cache_layers[number].update(*(part.transpose(1, 2) for part in states))
    return cache


def _is_hooked(decoder: PreTrainedModel) -> bool:
    """Tell whether anything has hooks in the decoder, which may change what its layers see of the anchor."""
    return any(module._forward_hooks or module._forward_pre_hooks for module in decoder.modules())


def anchor_length(rows: Sequence[PreparedKnowledge | None], input_ids: Tensor, mask: Tensor | None) -> int:
    """Return how many columns the anchor has that x begins with; 0 if rows differ, or if nothing comes after it.

    Args:
        rows: Prepared knowledge of each row; a row without any must be read as ever, so that it stays bit-identical.
        input_ids: The prompt, int64 [B, L].
        mask: 0 at padding, [B, L].
    """
    lengths = {0 if row is None else len(row.anchor_ids) for row in rows}
    length = lengths.pop() if len(lengths) == 1 else 0
    if length >= input_ids.shape[1] or (mask is not None and not bool(mask.all())):
        return 0
    # Where a layer sees what was kept of the anchor, it must be x's own; else a single token may be any.
    for ids, row in zip(input_ids[:, :length].tolist(), rows, strict=True):
        if row is not None and row.bare_anchor and tuple(ids) != row.anchor_ids:
            return 0
    return length


def is_stepwise(decoder: PreTrainedModel, options: Mapping[str, Any]) -> bool:
    """Tell whether these options of ``generate`` let it go on behind columns that were not computed."""
    settings = decoder.generation_config
    values = {name: options.get(name, getattr(settings, name, None)) for name in _SETTINGS}
    # In training, gradient checkpointing drops caches.
    same = not decoder.training and all(value in _SETTINGS[name] for name, value in values.items())
    return same and options.keys() <= _STEPWISE_OPTIONS
