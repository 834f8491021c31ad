"""LLaMA2-7B's shape on the device ``meta``. It holds no weights, so any machine can count its operations and bytes."""

from __future__ import annotations

from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from diekae.config import DiekaeConfig, resolve_layers
from diekae.encoders.bank import Bank
from diekae.inject.attached import Attached
from diekae.inject.hookpoints import Hookpoint, find_blocks
from diekae_research.bench.setting import BANKS


def llama2_7b_config(**changes: Any) -> LlamaConfig:
    """Return LLaMA2-7B's configuration, with changes."""
    shape: dict[str, Any] = {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 4096,
    }
    return LlamaConfig(**{**shape, **changes})


def llama2_7b() -> PreTrainedModel:
    """Return LLaMA2-7B in bf16 on ``meta``."""
    with torch.device("meta"):
        decoder: Any = LlamaForCausalLM(llama2_7b_config())
    shape: PreTrainedModel = decoder.to(torch.bfloat16).eval()
    return shape


def llama2_7b_bank(decoder: PreTrainedModel, name: str) -> Attached:
    """Attach one of `BANKS` to the decoder of :func:`llama2_7b`, in bf16 on ``meta``.

    `DiekaeModel` cannot do it: it finds a decoder's hookpoints by running it, and tensors on ``meta`` have no values.
    """
    shape, blocks = decoder.config, find_blocks(decoder)
    config = DiekaeConfig(**BANKS[name])
    size = shape.hidden_size // shape.num_attention_heads
    traits = {"heads": shape.num_attention_heads, "kv_heads": shape.num_key_value_heads}
    options = config.resolve_sizes({**traits, "key_size": size, "value_size": size}).encoder_options
    layers = resolve_layers(config.layers, len(blocks))
    with torch.device("meta"):
        bank = Bank(config.encoder, options, layers, shape.hidden_size, shape.hidden_size).to(torch.bfloat16)
    points: dict[int, Hookpoint] = {}
    for layer in layers:
        block: Any = blocks[layer]
        if config.site == "attention":
            points[layer] = Hookpoint(block, block.self_attn, (block.self_attn,))
        else:
            points[layer] = Hookpoint(block, block, ())
    return Attached(decoder, bank, points, {})
