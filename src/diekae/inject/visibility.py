"""Hiding columns from rows in the attention of some layers: what a decoder reads where, without any training.

Shapes: B sequences, R rows (queries) and C columns (keys) of the attention; with a cache C is longer than R, and the
rows are the last of the columns.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from diekae.inject.hookpoints import find_blocks

IMPLEMENTATIONS = ("eager", "sdpa")
"""Attention implementations that take a mask with an entry for each row and column."""
_LEAK = 0.01
"""Largest change of logits by hidden tokens, as a share of their change by the same tokens in sight."""


@contextmanager
def hiding(decoder: PreTrainedModel, hidden: Mapping[int, Tensor]) -> Iterator[None]:
    """Hide columns from rows in some layers, whenever *this thread* runs the decoder inside the block.

    The mask that a block is given is exchanged for one that hides more, so causality, padding and sliding windows stay
    as they are. All hooks are removed at the end, whatever happens.

    Args:
        decoder: Any causal decoder whose blocks take an ``attention_mask``; see :func:`check_masks`.
        hidden: Which columns each row does not see in a layer, of every forward inside the block: bool [R, C] or
            [B, R, C], by layer. Layers that are not named are left alone.

    Raises:
        ValueError: A layer does not exist, or the decoder's masks cannot be exchanged.
    """
    blocks = find_blocks(decoder)
    if unknown := sorted(set(hidden) - set(range(len(blocks)))):
        raise ValueError(f"layers {unknown} do not exist; the decoder has layers 0 to {len(blocks) - 1}.")
    implementation = decoder.config._attn_implementation
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"attention implementation {implementation!r} takes no mask of rows and columns; load the decoder with "
            f"attn_implementation={' or '.join(map(repr, IMPLEMENTATIONS))}."
        )
    signatures = {layer: _signature(blocks[layer]) for layer in hidden}
    thread, handles = threading.get_ident(), list[Any]()
    try:
        for layer, columns in hidden.items():
            hook = _exchange(thread, signatures[layer], columns.reshape(-1, 1, *columns.shape[-2:]))
            handles.append(blocks[layer].register_forward_pre_hook(hook, with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _signature(block: nn.Module) -> inspect.Signature:
    """Return the arguments of a block: some decoders pass the mask by name, some by place."""
    signature = inspect.signature(block.forward)
    if "attention_mask" not in signature.parameters:
        raise ValueError(
            f"{type(block).__name__} takes no attention_mask, so nothing can be hidden from its rows; only decoders "
            "whose blocks are given their masks can be measured."
        )
    return signature


def _exchange(thread: int, signature: inspect.Signature, hidden: Tensor) -> Any:
    # `*rest`: another thread may meet this hook before torch has noted that it takes keywords.
    def hook(block: nn.Module, *rest: Any) -> Any:
        if threading.get_ident() != thread:
            return None
        args, kwargs = rest
        bound = signature.bind(*args, **kwargs)
        bound.arguments["attention_mask"] = _and_hidden(block, bound.arguments.get("attention_mask"), hidden)
        return bound.args, bound.kwargs

    return hook


def _and_hidden(block: nn.Module, mask: Tensor | None, hidden: Tensor) -> Tensor:
    """Return the mask with the columns hidden: bool, or added to the scores, as it was; none is a causal one."""
    rows, columns = hidden.shape[-2:]
    if mask is None:
        return torch.ones_like(hidden).tril(columns - rows) & ~hidden
    if not isinstance(mask, Tensor) or mask.ndim != 4 or mask.shape[-2:] != (rows, columns):
        shape = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(
            f"{type(block).__name__} is given an attention_mask of {shape}, expected one with {rows} rows and "
            f"{columns} columns: the masks of this decoder cannot be exchanged."
        )
    if mask.dtype == torch.bool:
        return mask & ~hidden
    return mask.masked_fill(hidden, torch.finfo(mask.dtype).min)


@torch.no_grad()
def check_masks(decoder: PreTrainedModel) -> None:
    """See whether what is hidden stays hidden: the logits after six hidden tokens must not depend on them.

    A recurrence, a convolution over tokens or a mask that is not looked at all let them through.

    Raises:
        ValueError: They depend on them, or a mask that hides nothing changes them.
    """
    vocabulary = int(decoder.get_input_embeddings().weight.shape[0])  # type: ignore[index]
    depth, length, known = len(find_blocks(decoder)), 10, slice(1, 7)
    ids = (torch.arange(1, length + 1, device=decoder.device) * 7 % vocabulary).repeat(2, 1)
    ids[1, known] = (ids[1, known] + vocabulary // 2) % vocabulary
    hidden = torch.zeros(length, length, dtype=torch.bool, device=decoder.device)

    def logits(layers: Collection[int]) -> Tensor:
        with hiding(decoder, dict.fromkeys(layers, hidden)):
            return decoder(input_ids=ids, use_cache=False).logits[:, known.stop :].float()  # type: ignore[no-any-return]

    plain, neutral = logits(()), logits(range(depth))
    hidden[known.stop :, known] = True
    change = (plain[0] - plain[1]).abs().max()
    for found in (neutral[0] - plain[0], torch.sub(*logits(range(depth)))):
        if found.abs().max() > _LEAK * change:
            raise ValueError(
                f"{type(decoder).__name__} does not keep to the masks that its blocks are given: tokens that no layer "
                "attends to still change the logits. Layers can be measured only where tokens meet in attention alone."
            )
