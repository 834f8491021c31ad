"""The attention weights of a decoder's blocks, for encoders that start from them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from diekae.encoders.start import AttentionWeights
from diekae.inject.hookpoints import find_blocks, stack_of

_OUTPUTS = ("o_proj", "out_proj", "dense")
_NORMS = ("q_norm", "k_norm")


def attention_traits(decoder: PreTrainedModel) -> dict[str, Any]:
    """Return what encoders that follow the decoder's attention settle on, as far as it has any.

    ``heads``, ``kv_heads`` and ``head_size``; whether queries and keys have ``biases``; whether each head's have
    ``norms``.
    """
    config: Any = decoder.config.get_text_config(decoder=True)
    heads = int(getattr(config, "num_attention_heads", 0))
    if not heads:
        return {}
    attention = _attention(find_blocks(decoder)[0])
    return {
        "heads": heads,
        "kv_heads": int(getattr(config, "num_key_value_heads", None) or heads),
        "head_size": int(getattr(config, "head_dim", None) or config.hidden_size // heads),
        "biases": attention is not None and _maps(attention)[0].bias is not None,
        "norms": hasattr(attention, _NORMS[0]),
    }


def attention_weights(decoder: PreTrainedModel, layers: tuple[int, ...]) -> list[AttentionWeights]:
    """Return the attention weights of some layers.

    Raises:
        ValueError: A block's attention has no query, key and value projections, or norms of another kind than a head's.
    """
    blocks = find_blocks(decoder)
    return [_weights(decoder, layer, blocks[layer]) for layer in layers]


def _attention(block: nn.Module) -> Any:
    """Find a block's attention: whatever projects queries, keys and values, each apart or all at once."""
    return next(
        (m for m in block.modules() if hasattr(m, "qkv_proj") or all(hasattr(m, f"{n}_proj") for n in "qkv")), None
    )


def _maps(attention: Any) -> list[Any]:
    """Return the projections to queries, keys and values; one for all three where they are fused."""
    return [attention.qkv_proj] if hasattr(attention, "qkv_proj") else [getattr(attention, f"{n}_proj") for n in "qkv"]


def _weights(decoder: PreTrainedModel, layer: int, block: nn.Module) -> AttentionWeights:
    attention, traits = _attention(block), attention_traits(decoder)
    output = next((getattr(attention, name) for name in _OUTPUTS if hasattr(attention, name)), None)
    if attention is None or output is None:
        raise ValueError(
            f"start='decoder' needs attention with projections to queries, keys and values and from their heads; layer "
            f"{layer} of {type(decoder).__name__} has none such. Use start='random'."
        )
    size, groups = traits["head_size"], traits["kv_heads"]
    parts = [size * traits["heads"], size * groups, size * groups]
    query, key, value = torch.cat([one.weight.detach().float() for one in _maps(attention)]).split(parts)
    frequencies, rotary_scale = _rotary(decoder, layer, size, query.device)
    scale = getattr(attention, "scaling", size**-0.5) * rotary_scale**2
    early, late = (1.0, scale) if traits["norms"] else (scale, 1.0)  # a norm forgets what scaled its input
    query_bias = key_bias = query_norm = key_norm = None
    if traits["biases"]:
        query_bias, key_bias, _ = torch.cat([one.bias.detach().float() for one in _maps(attention)]).split(parts)
        query_bias, key_bias = query_bias.unflatten(0, (-1, size)) * early, key_bias.unflatten(0, (-1, size))
    if traits["norms"]:
        query_norm, key_norm = (_head_gain(getattr(attention, name), size, layer, decoder) for name in _NORMS)
        query_norm = query_norm * late
    return AttentionWeights(
        norm=_norm(block, attention, query.shape[1]),
        query=query.unflatten(0, (-1, size)) * early,
        key=key.unflatten(0, (-1, size)),
        value=value.unflatten(0, (-1, size)),
        output=output.weight.detach().float().unflatten(1, (-1, size)).transpose(0, 1),
        frequencies=frequencies,
        query_bias=query_bias,
        key_bias=key_bias,
        query_norm=query_norm,
        key_norm=key_norm,
    )


def _head_gain(norm: nn.Module, size: int, layer: int, decoder: PreTrainedModel) -> Tensor:
    """Return the gain of a norm of queries or keys, [h].

    Raises:
        ValueError: It is not a norm of one head.
    """
    shape = tuple(getattr(norm, "weight", torch.empty(0)).shape)
    if shape != (size,):
        raise ValueError(
            f"start='decoder' needs norms of queries and keys a head at a time, with a gain of {size}; in layer "
            f"{layer} of {type(decoder).__name__} it has the shape {shape}. Use start='random'."
        )
    return _gain(norm, norm.weight)  # type: ignore[arg-type]


def _norm(block: nn.Module, attention: nn.Module, width: int) -> Tensor:
    """Return the gain of the first norm of the block, which stands before its attention; ones if it has none."""
    for module in block.children():
        weight = getattr(module, "weight", None)
        if module is not attention and weight is not None and weight.shape == (width,):
            return _gain(module, weight)
    return torch.ones(width)


@torch.no_grad()
def _gain(norm: nn.Module, weight: Tensor) -> Tensor:
    """Read a norm's gain off what it does, for some keep gain − 1: alternating signs have mean 0 and mean square 1."""
    signs = torch.ones_like(weight)
    signs[1::2] = -1
    gain: Tensor = (norm(signs) - norm(-signs)) / 2 * signs
    return gain.float()


def _rotary(decoder: PreTrainedModel, layer: int, size: int, device: torch.device) -> tuple[Tensor, float]:
    """Return radians a token of each pair of dimensions [h/2], and the factor that rotary positions put on both sides.

    Raises:
        ValueError: Not all of a head is turned.
    """
    rotary: Any = getattr(stack_of(decoder), "rotary_emb", None)
    if rotary is None:
        return torch.zeros(size // 2, device=device), 1.0
    kinds = getattr(decoder.config.get_text_config(decoder=True), "layer_types", None)
    # Where kinds of layers are turned differently, each has its own.
    kind = f"{kinds[layer]}_" if kinds and hasattr(rotary, f"{kinds[layer]}_inv_freq") else ""
    frequencies = getattr(rotary, f"{kind}inv_freq", None)
    if frequencies is None or len(frequencies) != size // 2:
        raise ValueError(
            f"start='decoder' needs rotary positions that turn all {size} dimensions of a head; "
            f"those of {type(decoder).__name__} do not. Use start='random'."
        )
    return frequencies.float().to(device), float(getattr(rotary, f"{kind}attention_scaling", 1.0))
