"""The attention of each decoder layer, found by running the decoder over a few tokens.

Shapes: B rows, T queries, C keys, H query heads, G key heads, d head size.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from diekae.inject.attention_interface import (
    AttentionCall,
    Masks,
    enable_wrapping,
    observe_attention,
    recorded_masks,
    refusal,
)
from diekae.inject.contexts import HookContext
from diekae.inject.hookpoints import find_blocks, probe_ids, stack_of


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
    window: int | None = None
    """The sliding window: how many tokens each token sees, itself among them; None if it sees all before it."""


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
    masks: dict[int, Any] = {}
    given: dict[int, Any] = {}

    def record_site(call: AttentionCall) -> None:
        layer, candidate = candidates[call.number]
        shapes = _heads_and_size(call.key), _heads_and_size(call.value)
        site = AttentionSite(candidate, call.query.shape[1], *shapes, window=call.window)
        sites.setdefault(layer, []).append(site)
        masks[layer] = _original(call.mask, given.get(layer))

    modules = {number: module for number, (_, module) in enumerate(candidates)}
    with _masks_of(blocks, given), observe_attention(modules, record_site), recorded_masks() as recorded:
        stack_of(decoder)(input_ids=probe_ids(decoder), use_cache=False)
    wrong = [layer for layer in range(len(blocks)) if len(sites.get(layer, [])) != 1]
    if wrong:
        raise ValueError(
            refusal(decoder, f"layers {wrong} do not attend through Transformers' attention interface, once each")
        )
    found = [sites[layer][0] for layer in range(len(blocks))]
    _check_windows(decoder, found, masks, recorded)
    return found


def _check_windows(
    decoder: PreTrainedModel, sites: Sequence[AttentionSite], masks: Mapping[int, Any], recorded: Masks
) -> None:
    """Refuse windows that only the mask knows of: K's slots stand before the mask's first column.

    Args:
        decoder: The decoder.
        sites: The attention of each layer, with the window that it names.
        masks: For each layer, the mask that its attention was given.
        recorded: All masks, and the window or chunk of each.

    Raises:
        ValueError: The window of a layer's mask is not the one that the layer names.
    """
    windows = {id(mask): window for mask, window in recorded}
    unknown = -1
    wrong = [layer for layer, site in enumerate(sites) if windows.get(id(masks[layer]), unknown) != site.window]
    if any(windows.values()) and wrong:
        raise ValueError(
            refusal(decoder, f"layers {wrong} see a part of the text, and their attention does not say which")
        )


def _masks_of(blocks: nn.ModuleList, given: dict[int, Any]) -> HookContext:
    """Return a block in which the masks that decoder blocks are given are kept, by layer."""

    def keep(layer: int, _block: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
        given[layer] = kwargs.get("attention_mask")

    def register(context: HookContext) -> None:
        for layer, block in enumerate(blocks):
            context.add_pre_hook(block, partial(keep, layer))

    return HookContext(register)


def _original(mask: Any, given: Any) -> Any:
    """Return the mask of an attention; the one that its block was given, if accelerate has copied it from there."""
    copied = isinstance(mask, Tensor) and isinstance(given, Tensor) and mask.device != given.device
    return given if copied and torch.equal(given.to(mask.device), mask) else mask


def _takes_keywords(module: nn.Module) -> bool:
    parameters = inspect.signature(module.forward).parameters.values()
    return any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)


def _heads_and_size(states: Tensor) -> tuple[int, int]:
    return states.shape[1], states.shape[3]
