"""Fixtures of several test files."""

import os

# No test may use the network. Transformers reads this variable once, when it is imported.
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from diekae.models import load_decoder


@pytest.fixture(scope="session")
def smollm2() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """SmolLM2-135M-Instruct in fp32 with its tokenizer. All tests share it: do not change it."""
    return load_decoder("smollm2", dtype=torch.float32)


@pytest.fixture(scope="session")
def tiny_llama() -> LlamaForCausalLM:
    """A random LLaMA (width 32, 4 layers) in fp32, eval mode. All tests share it: do not change it."""
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(config).to(torch.float32).eval()
