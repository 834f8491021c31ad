"""The attention weights of a decoder's blocks, for encoders that start from them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from diekae.encoders.start import AttentionWeights
from diekae.inject.hookpoints import find_blocks, stack_of

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
    frequencies, rotary_scale = _rotary(decoder, size, query.device)
    return AttentionWeights(
        norm=_norm(block, attention, query.shape[1]),
        query=query.unflatten(0, (-1, size)) * scale * rotary_scale**2,
        key=key.unflatten(0, (-1, size)),
        value=value.unflatten(0, (-1, size)),
        output=output.weight.detach().float().unflatten(1, (-1, size)).transpose(0, 1),
        frequencies=frequencies,
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


def _rotary(decoder: PreTrainedModel, size: int, device: torch.device) -> tuple[Tensor, float]:
    """Return radians a token of each pair of dimensions [h/2], and the factor that rotary positions put on both sides.

    Raises:
        ValueError: Not all of a head is turned, or layers are turned differently.
    """
    rotary: Any = getattr(stack_of(decoder), "rotary_emb", None)
    if rotary is None:
        return torch.zeros(size // 2, device=device), 1.0
    frequencies = getattr(rotary, "inv_freq", None)
    if frequencies is None or len(frequencies) != size // 2:
        raise ValueError(
            f"start='decoder' needs rotary positions that turn all {size} dimensions of a head, alike in all layers; "
            f"those of {type(decoder).__name__} do not. Use start='random'."
        )
    return frequencies.float().to(device), float(getattr(rotary, "attention_scaling", 1.0))
