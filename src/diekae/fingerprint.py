"""A decoder's fingerprint and window, and whether it can be injected into."""

from __future__ import annotations

import hashlib

import torch
from transformers import PreTrainedModel

SAMPLES = 257
"""Weights sampled from each tensor, evenly spaced: enough to distinguish fine-tuned models, few enough for any size."""
SMALLEST = 2.0**-16
"""Weights with a smaller absolute value count as zero, because fp16 rounds them and bf16 does not."""
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
    """Return a digest of the decoder's sizes and weights, the same on every device and in fp32 and bf16.

    It is the same in fp16 too if the weights were published in bf16, which fp16 represents exactly except the smallest.
    """
    config = decoder.config.get_text_config(decoder=True)
    digest = hashlib.sha256(repr([(key, getattr(config, key, None)) for key in CONFIG_KEYS]).encode())
    for name, weight in sorted(decoder.named_parameters()):
        flat = weight.detach().reshape(-1)
        step = max(1, flat.numel() // SAMPLES)
        sample = flat[::step].to("cpu", torch.bfloat16)
        sample = torch.where(sample.abs() < SMALLEST, torch.zeros_like(sample), sample)
        digest.update(f"{name}{tuple(weight.shape)}".encode() + sample.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]


def check_whole(decoder: PreTrainedModel, bank: torch.nn.Module) -> None:
    """Refuse a decoder that cannot be injected into in its present state.

    Raises:
        ValueError: It is partly offloaded, or on another device than its bank.
    """
    stack: torch.nn.Module = decoder.get_decoder()
    module_lists = [module for module in stack.children() if isinstance(module, torch.nn.ModuleList)]
    parts = [decoder, stack, *(block for modules in module_lists for block in modules)]
    device = decoder.get_input_embeddings().weight.device
    first_parameters = (next(part.parameters(), None) for part in parts)
    if device.type != "meta" and any(first is not None and first.is_meta for first in first_parameters):
        raise ValueError(
            "parts of the decoder are offloaded (device 'meta'); load it whole on one device, without device_map."
        )
    bank_device = next((tensor.device for tensor in (*bank.parameters(), *bank.buffers())), device)
    if bank_device != device:
        raise ValueError(
            f"the bank is on {bank_device}, but the decoder is on {device}; move both: model.to({str(device)!r})."
        )


def window(decoder: PreTrainedModel) -> int:
    """Return the decoder's window: the most tokens that it reads."""
    config = decoder.config.get_text_config(decoder=True)
    return int(getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 2**20)
