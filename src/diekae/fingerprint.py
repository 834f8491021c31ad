"""A decoder's fingerprint: a bank meets only the decoder it was made for."""

from __future__ import annotations

import hashlib

import torch
from transformers import PreTrainedModel

SAMPLES = 257
"""Weights read of each tensor, evenly spaced: enough to tell fine-tunes apart, little enough for any size."""
CONFIG_KEYS = (
    "model_type",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
)


@torch.no_grad()
def fingerprint(decoder: PreTrainedModel) -> str:
    """Return a digest of the decoder's shape and weights that is the same on any device and in fp32 or bf16."""
    config = decoder.config.get_text_config(decoder=True)
    digest = hashlib.sha256(repr([(key, getattr(config, key, None)) for key in CONFIG_KEYS]).encode())
    for name, weight in sorted(decoder.named_parameters()):
        flat = weight.detach().reshape(-1)
        step = max(1, flat.numel() // SAMPLES)
        sample = flat[::step].to("cpu", torch.bfloat16).view(torch.int16).numpy().tobytes()
        digest.update(f"{name}{tuple(weight.shape)}".encode() + sample)
    return digest.hexdigest()[:16]


def window(decoder: PreTrainedModel) -> int:
    """Return the decoder's window in tokens."""
    config = decoder.config.get_text_config(decoder=True)
    return int(getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 2**20)
