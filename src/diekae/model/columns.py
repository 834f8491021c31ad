"""Columns of one call: those in a cache, and those of x's own anchor, which the anchor of K replaces.

In the bank's layers nothing sees x's own anchor: x sees the anchor among K's slots. What other layers see of it was
kept when K was prepared, so it need not be computed.

Shapes: B rows, L columns of the prompt, including those in a cache, M layers without an encoder, a columns of the
anchor, G key heads, d head size.
"""

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


def add_cached_columns(input_ids: Tensor, injection_mask: Tensor | None, cached_length: int) -> tuple[Tensor, Tensor]:
    """Put the columns that are in a cache before the new ones; return ids and injection mask, both [B, L].

    The cached tokens no longer matter, only their number. The injection mask has the columns that receive, bool, new
    ones or all; None for all new ones.
    """
    cached = input_ids.new_zeros((input_ids.shape[0], cached_length))
    if injection_mask is None:
        injection_mask = torch.ones_like(input_ids, dtype=torch.bool)
    if injection_mask.shape == input_ids.shape:
        injection_mask = torch.cat([cached.bool(), injection_mask.bool()], dim=1)
    return torch.cat([cached, input_ids], dim=1), injection_mask


def replaced_anchors(
    rows: Sequence[PreparedKnowledge | None], input_ids: Tensor, valid: Tensor, cached_length: int
) -> Tensor:
    """Return the columns of x that are replaced by the anchor of its knowledge, bool [B, L].

    ``valid`` are the columns that are not padding, bool [B, L]. If columns are cached, the beginning of x is not
    checked again.

    Raises:
        ValueError: An input does not begin with the anchor that its knowledge was read after.
    """
    position = valid.long().cumsum(1) - 1
    lengths = torch.tensor([[0 if row is None else len(row.anchor_ids)] for row in rows], device=input_ids.device)
    for number, row in enumerate(rows):
        # A single token holds the attention sink, whichever token it is.
        if cached_length or row is None or len(row.anchor_ids) < 2:
            continue
        beginning = tuple(input_ids[number, valid[number]][: len(row.anchor_ids)].tolist())
        if beginning != row.anchor_ids:
            raise ValueError(
                f"input {number} begins with tokens {beginning}, but its knowledge was read after {row.anchor_ids}; "
                "prepare and tokenize in the same format: model.prepare(text, format=…), "
                "model.tokenize(question, format=…); of a chat also with the same system prompt."
            )
    return valid & (position < lengths)


def unseen_columns(
    decoder: PreTrainedModel, layers: Collection[int], rows: Sequence[PreparedKnowledge], columns: int
) -> Cache | None:
    """Return a cache that begins with the anchor, of so many columns; None if x must read its anchor.

    x must, if what the cache holds was not kept, if not all layers only grow, or if the decoder is spread over devices.
    The layers that do not see x's own anchor get zeros: a weight of 0 times what were not finite would not be 0.
    """
    cache = DynamicCache(config=decoder.config)
    others = [number for number in range(len(cache.layers)) if number not in layers]
    kept = {len(row.bare_anchor["keys"]) if row.bare_anchor else 0 for row in rows}
    cache_layers: list[Any] = cache.layers
    grow = all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache_layers)
    if not grow or len(cache_layers) != len(layers) + len(others) or kept != {len(others)}:
        return None
    # Hooks may change what the other layers see of the anchor.
    hooked = any(module._forward_hooks or module._forward_pre_hooks for module in decoder.modules())
    if stays(decoder) or (others and hooked):
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


def anchor_length(rows: Sequence[PreparedKnowledge | None], input_ids: Tensor, mask: Tensor | None) -> int:
    """Return how many columns the anchor has that x begins with; 0 if rows differ, or if nothing comes after it.

    A row without knowledge must be read as ever, so that it stays bit-identical. The mask is 0 at padding, [B, L].
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
