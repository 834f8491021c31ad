"""Fixtures of several test files."""

import os
import sqlite3
from collections.abc import Iterator
from functools import partial
from typing import Any

# No test may use the network. Transformers reads this variable once, when it is imported.
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from diekae.models import load_decoder

_connect = sqlite3.connect


class _Unsynced(sqlite3.Connection):
    """Never waits until a transaction is on the disk."""

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        return super().execute(
            "PRAGMA synchronous = OFF" if sql.startswith("PRAGMA synchronous = ") else sql, *parameters
        )


@pytest.fixture(scope="session", autouse=True)
def unsynced() -> Iterator[None]:
    """Let no test wait for the disk: only a power cut could show it, and each file and transaction takes 10 ms."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _handle: None)
        patch.setattr(sqlite3, "connect", partial(_connect, factory=_Unsynced))
        yield


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let SQLite wait for the disk as it does for users."""
    monkeypatch.setattr(sqlite3, "connect", _connect)


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
