"""Decoders of every architecture, and differences injected into them; for the tests of hooks and hookpoints."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from builders import ARCHITECTURES, DEPTH, WIDTH, make_decoder
from diekae.inject.hookpoints import Hookpoint
from diekae.inject.hooks import apply_hook

SITES = ("block", "attention", "mlp")
LAYERS = tuple(range(DEPTH))
EVERYWHERE = pytest.mark.parametrize("kind", ARCHITECTURES)
EVERY_SITE = pytest.mark.parametrize("site", SITES)

MODULES = {
    "llama": ("self_attn", "mlp"),
    "mistral": ("self_attn", "mlp"),
    "qwen2": ("self_attn", "mlp"),
    "qwen3": ("self_attn", "mlp"),
    "gemma2": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "gemma3_text": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "phi3": ("resid_attn_dropout", "resid_mlp_dropout"),
    "gpt2": ("attn.resid_dropout", "mlp.dropout"),
    "gpt_neox": ("post_attention_dropout", "post_mlp_dropout"),
    "opt": ("self_attn.out_proj", "fc2"),
    "falcon": ("self_attention.dense", "mlp.dense_4h_to_h"),
    "mixtral": ("self_attn", "mlp"),
}
"""Where each architecture adds to its residual stream, read in Transformers' source: an independent table."""

_decoders: dict[str, PreTrainedModel] = {}


def decoder_of(kind: str) -> PreTrainedModel:
    """One decoder of each kind, shared by all tests; no test may change it."""
    if kind not in _decoders:
        _decoders[kind] = make_decoder(kind)
    return _decoders[kind]


@torch.no_grad()
def logits_of(decoder: PreTrainedModel, ids: Tensor) -> Tensor:
    return decoder(input_ids=ids, use_cache=False).logits


def injecting(points: Mapping[int, Hookpoint], differences: Tensor):
    """Inject given differences [N, B, T, W]."""
    number = {layer: index for index, layer in enumerate(sorted(points))}
    return apply_hook(points, lambda layer, _stream, _output: differences[number[layer]])


def noise_like(ids: Tensor) -> Tensor:
    """Differences for every layer; not constant, because a layer norm would remove a constant."""
    return torch.randn(DEPTH, *ids.shape, WIDTH, generator=torch.Generator().manual_seed(1))
