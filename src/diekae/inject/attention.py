"""The attention of each decoder layer, found by running the decoder over a few tokens.

Shapes: B rows, T queries, C keys, H query heads, G key heads, d head size.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from diekae.inject.attention_interface import (
    AttentionFunction,
    AttentionWrapper,
    Masks,
    enable_wrapping,
    recorded_masks,
    refusal,
    wrap_attention,
)
from diekae.inject.contexts import Entry, HookContext
from diekae.inject.hookpoints import PROBE_TOKENS, find_blocks, stack_of
from diekae.placement import input_device


@dataclass(frozen=True)
class AttentionSite:
    """The attention of one decoder layer."""

    module: nn.Module
    """The module that projects queries, keys and values and calls the attention interface."""
    heads: int
    """H."""
    key_shape: tuple[int, int]
    """G, and the dimensions of a key."""
    value_shape: tuple[int, int]
    """G, and the dimensions of a value."""
    rotary: bool = True
    """Whether keys are rotated to their positions (RoPE); some decoders have layers without positions."""


@torch.no_grad()
def find_attention(decoder: PreTrainedModel) -> list[AttentionSite]:
    """Find the attention of every layer.

    Raises:
        ValueError: The attention of a layer does not go through Transformers' attention interface, or does not name
            the window of its mask.
    """
    enable_wrapping(decoder)
    blocks = find_blocks(decoder)
    candidates = [
        (layer, module)
        for layer, block in enumerate(blocks)
        for module in block.modules()
        if module is not block and _takes_keywords(module)
    ]
    sites: dict[int, list[AttentionSite]] = {}
    masks: dict[int, tuple[Any, int | None]] = {}
    given: dict[int, Any] = {}

    def make_wrapper(number: int, _states: Tensor) -> AttentionWrapper:
        layer, candidate = candidates[number]

        def record_site(
            attention: AttentionFunction,
            module: nn.Module,
            query: Tensor,
            key: Tensor,
            value: Tensor,
            *rest: Any,
            **options: Any,
        ) -> tuple[Tensor, Any]:
            site = AttentionSite(candidate, query.shape[1], _heads_and_size(key), _heads_and_size(value))
            sites.setdefault(layer, []).append(site)
            masks[layer] = _mask_of(rest, options, given.get(layer)), options.get("sliding_window")
            return attention(module, query, key, value, *rest, **options)

        return record_site

    vocabulary = int(decoder.get_input_embeddings().weight.shape[0])  # type: ignore[index]
    ids = torch.arange(PROBE_TOKENS, device=input_device(decoder))[None] % vocabulary
    modules = {number: module for number, (_, module) in enumerate(candidates)}
    with _masks_of(blocks, given), wrap_attention(modules, make_wrapper), recorded_masks() as recorded:
        stack_of(decoder)(input_ids=ids, use_cache=False)
    wrong = [layer for layer in range(len(blocks)) if len(sites.get(layer, [])) != 1]
    if wrong:
        raise ValueError(
            refusal(decoder, f"layers {wrong} do not attend through Transformers' attention interface, once each")
        )
    _check_windows(decoder, masks, recorded)
    return [sites[layer][0] for layer in range(len(blocks))]


def _check_windows(decoder: PreTrainedModel, masks: Mapping[int, tuple[Any, int | None]], recorded: Masks) -> None:
    """Refuse windows that only the mask knows of: K's slots stand before the mask's first column.

    Args:
        decoder: The decoder.
        masks: For each layer, the mask that its attention was given, and the window that it names.
        recorded: All masks, and the window or chunk of each.

    Raises:
        ValueError: The window of a layer's mask is not the one that the layer names.
    """
    windows = {id(mask): window for mask, window in recorded}
    unknown = -1
    wrong = [layer for layer, (mask, window) in masks.items() if windows.get(id(mask), unknown) != window]
    if any(windows.values()) and wrong:
        raise ValueError(
            refusal(decoder, f"layers {sorted(wrong)} see a part of the text, and their attention does not say which")
        )


def _masks_of(blocks: nn.ModuleList, given: dict[int, Any]) -> HookContext:
    """Return a block in which the masks that decoder blocks are given are kept, by layer."""

    def keep(entry: Entry, layer: int, _block: nn.Module, *rest: Any) -> None:
        if entry.current:
            given[layer] = rest[1].get("attention_mask")

    def register(context: HookContext) -> None:
        for layer, block in enumerate(blocks):
            context.add_pre_hook(block, partial(keep, context.entry, layer))

    return HookContext(register)


def _mask_of(rest: tuple[Any, ...], options: Mapping[str, Any], given: Any) -> Any:
    """Return the mask of an attention; the one that its block was given, if accelerate has copied it from there."""
    mask = rest[0] if rest else options.get("attention_mask")
    if not isinstance(mask, Tensor) or not isinstance(given, Tensor) or mask.device == given.device:
        return mask
    return given if torch.equal(given.to(mask.device), mask) else mask


def _takes_keywords(module: nn.Module) -> bool:
    parameters = inspect.signature(module.forward).parameters.values()
    return any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)


def _heads_and_size(states: Tensor) -> tuple[int, int]:
    return states.shape[1], states.shape[3]
