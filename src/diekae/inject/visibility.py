"""Hiding columns from rows in the attention of some layers, to measure what a decoder reads where.

Shapes: B sequences, R rows (queries) and C columns (keys) of the attention. With a cache C is longer than R, and the
rows are the last of the columns.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from diekae.inject.attention_interface import IMPLEMENTATIONS, implementation
from diekae.inject.contexts import HookContext
from diekae.inject.hookpoints import find_blocks
from diekae.placement import input_device

_LEAK = 0.01
"""Largest change of logits by hidden tokens, as a share of their change by the same tokens when visible."""


def hiding(decoder: PreTrainedModel, hidden: Mapping[int, Tensor]) -> HookContext:
    """Return a block that hides columns from rows in some layers, when the current context runs the decoder inside it.

    Each layer is given a mask that hides more than its own, so causality, padding and sliding windows remain. All hooks
    are removed at the end, also after an exception.

    Args:
        decoder: Any causal decoder whose blocks take an ``attention_mask``; see :func:`check_masks`.
        hidden: For each layer, the columns that each row does not see, in every forward inside the block: bool [R, C]
            or [B, R, C]. Other layers are left alone.

    Raises:
        ValueError: A layer does not exist, or the decoder's masks cannot be replaced.
    """
    blocks = find_blocks(decoder)
    if unknown := sorted(set(hidden) - set(range(len(blocks)))):
        raise ValueError(f"layers {unknown} do not exist; the decoder has layers 0 to {len(blocks) - 1}.")
    name = implementation(decoder)
    if name not in IMPLEMENTATIONS:
        raise ValueError(
            f"attention implementation {name!r} takes no mask of rows and columns; load the decoder with "
            f"attn_implementation={' or '.join(map(repr, IMPLEMENTATIONS))}."
        )
    signatures = {layer: _signature(blocks[layer]) for layer in hidden}

    def register(context: HookContext) -> None:
        for layer, columns in hidden.items():
            columns_by_head = columns.reshape(-1, 1, *columns.shape[-2:])
            context.add_pre_hook(blocks[layer], _mask_hook(signatures[layer], columns_by_head))

    return HookContext(register)


def _signature(block: nn.Module) -> inspect.Signature:
    """Return the arguments of a block; some decoders pass the mask by name, some by position.

    Raises:
        ValueError: The block takes no mask.
    """
    signature = inspect.signature(block.forward)
    if "attention_mask" not in signature.parameters:
        raise ValueError(
            f"{type(block).__name__} takes no attention_mask, so nothing can be hidden from its rows; only decoders "
            "whose blocks are given their masks can be measured."
        )
    return signature


def _mask_hook(signature: inspect.Signature, hidden: Tensor) -> Any:
    """Return a hook that replaces a block's mask."""

    def replace_mask(block: nn.Module, args: Any, kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.arguments["attention_mask"] = _hide_more(block, bound.arguments.get("attention_mask"), hidden)
        return bound.args, bound.kwargs

    return replace_mask


def _hide_more(block: nn.Module, mask: Tensor | None, hidden: Tensor) -> Tensor:
    """Return a mask that also hides ``hidden``, of the same kind (bool, or added to scores); None is a causal mask.

    Raises:
        ValueError: The mask has another shape than ``hidden``.
    """
    rows, columns = hidden.shape[-2:]
    if mask is None:
        return torch.ones_like(hidden).tril(columns - rows) & ~hidden
    if not isinstance(mask, Tensor) or mask.ndim != 4 or mask.shape[-2:] != (rows, columns):
        shape = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(
            f"{type(block).__name__} is given an attention_mask of {shape}, expected one with {rows} rows and "
            f"{columns} columns: the masks of this decoder cannot be replaced."
        )
    if mask.dtype == torch.bool:
        return mask & ~hidden
    return mask.masked_fill(hidden, torch.finfo(mask.dtype).min)


@torch.no_grad()
def check_masks(decoder: PreTrainedModel) -> None:
    """Check that logits do not depend on hidden tokens, by a run over ten tokens of which six are hidden.

    They do in a decoder with a recurrence, with a convolution over tokens, or with blocks that ignore their masks.

    Raises:
        ValueError: The logits depend on hidden tokens, or a mask that hides nothing changes them.
    """
    vocabulary = int(decoder.get_input_embeddings().weight.shape[0])  # type: ignore[index]
    depth, length, knowledge = len(find_blocks(decoder)), 10, slice(1, 7)
    ids = (torch.arange(1, length + 1, device=input_device(decoder)) * 7 % vocabulary).repeat(2, 1)
    ids[1, knowledge] = (ids[1, knowledge] + vocabulary // 2) % vocabulary
    hidden = torch.zeros(length, length, dtype=torch.bool, device=input_device(decoder))

    def logits_with_mask(layers: Collection[int]) -> Tensor:
        with hiding(decoder, dict.fromkeys(layers, hidden)):
            logits: Tensor = decoder(input_ids=ids, use_cache=False).logits
        return logits[:, knowledge.stop :].float()

    plain, nothing_hidden = logits_with_mask(()), logits_with_mask(range(depth))
    hidden[knowledge.stop :, knowledge] = True
    all_hidden = logits_with_mask(range(depth))
    allowed = _LEAK * (plain[0] - plain[1]).abs().max()
    for error in (nothing_hidden[0] - plain[0], all_hidden[0] - all_hidden[1]):
        if error.abs().max() > allowed:
            raise ValueError(
                f"{type(decoder).__name__} does not keep to the masks that its blocks are given: tokens that no layer "
                "attends to still change the logits. Layers can be measured only where tokens meet in attention alone."
            )
