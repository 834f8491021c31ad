"""The attention weights of a decoder's blocks, for encoders that start from them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from diekae.encoders.start import AttentionWeights, mean_rotation
from diekae.inject.hookpoints import find_blocks, stack_of

SPAN = 200
"""Distances over which rotary positions are averaged, in tokens."""
_OUTPUTS = ("o_proj", "out_proj", "dense")


def attention_weights(decoder: PreTrainedModel, layers: tuple[int, ...]) -> list[AttentionWeights]:
    """Return the attention weights of some layers.

    Raises:
        ValueError: A block's attention has no separate query, key and value projections, or norms on them.
    """
    blocks = find_blocks(decoder)
    return [_weights(decoder, layer, blocks[layer]) for layer in layers]


def _weights(decoder: PreTrainedModel, layer: int, block: nn.Module) -> AttentionWeights:
    attention: Any = next((m for m in block.modules() if all(hasattr(m, f"{n}_proj") for n in "qkv")), None)
    output = next((getattr(attention, name) for name in _OUTPUTS if hasattr(attention, name)), None)
    if attention is None or output is None or hasattr(attention, "q_norm"):
        raise ValueError(
            f"start='decoder' needs attention with q_proj, k_proj, v_proj and an output projection, and no norm of "
            f"queries; layer {layer} of {type(decoder).__name__} has none such. Use start='random'."
        )
    size = attention.head_dim
    query, key, value = (getattr(attention, f"{n}_proj").weight.detach().float() for n in "qkv")
    scale = getattr(attention, "scaling", size**-0.5)
    return AttentionWeights(
        norm=_norm(block, attention, query.shape[1]),
        query=query.unflatten(0, (-1, size)) * scale,
        key=_unpositioned(decoder, key.unflatten(0, (-1, size))),
        value=value.unflatten(0, (-1, size)),
        output=output.weight.detach().float().unflatten(1, (-1, size)).transpose(0, 1),
    )


@torch.no_grad()
def _norm(block: nn.Module, attention: nn.Module, width: int) -> Tensor:
    """Return the gain of the first norm of the block, which stands before its attention; ones if it has none.

    It is read off what the norm does, for some keep gain − 1: signs that alternate have mean 0 and root mean square 1.
    """
    for module in block.children():
        weight = getattr(module, "weight", None)
        if module is not attention and weight is not None and weight.shape == (width,):
            signs = torch.ones_like(weight)
            signs[1::2] = -1
            gain: Tensor = (module(signs) - module(-signs)) / 2 * signs
            return gain.float()
    return torch.ones(width)


@torch.no_grad()
def _unpositioned(decoder: PreTrainedModel, keys: Tensor) -> Tensor:
    """Average rotary positions out of keys [G, h, W]; keys of other decoders stay as they are."""
    rotary = getattr(stack_of(decoder), "rotary_emb", None)
    if rotary is None:
        return keys
    places = torch.arange(1, SPAN + 1, device=keys.device)[None]
    try:
        cos, sin = rotary(keys.new_zeros(1, 1, 1), places)
    except (TypeError, ValueError):  # several kinds of layers, each with rotations of its own (Gemma 3)
        return keys
    return mean_rotation(keys, cos[0].float(), sin[0].float())
