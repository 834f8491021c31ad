"""Bytes: what a token of prepared knowledge takes, and how much RAM a pass needs above D(x), by its tensors.

Table 4 of the paper (`diekae_research.tables.table4`) measures what processes take.
"""

from __future__ import annotations

from typing import Any

import torch

from diekae.config import MEMIT_LAYERS
from diekae.encoders.bank import Bank
from diekae.inject.attached import Attached
from diekae.knowledge import PreparedKnowledge
from diekae_research.bench import counters, floor
from diekae_research.bench.llama import llama2_7b, llama2_7b_bank
from diekae_research.bench.setting import Bench, Comparison

LENGTH = 2048
"""|K| of the peaks."""


@torch.no_grad()
def measure(bench: Bench) -> dict[str, Any]:
    """Measure and count bytes."""
    rows, sizes = _knowledge_bytes(bench)
    return {"rows": [*rows, *_count_llama(bench.inputs)], "bytes": sizes}


def _knowledge_bytes(bench: Bench) -> tuple[list[Comparison], dict[str, Any]]:
    """Compare the bytes of a token of K with those of LLaMA2-7B's cache."""
    llama = llama2_7b()
    cache = floor.cache_bytes(llama, 1)
    token = llama2_7b_bank(llama, "token")
    sizes = {"cache": cache, "token_bf16": _file_bytes(token, "exact"), "token_int8": _file_bytes(token, "int8")}
    note = f"six token encoders of width 128; cache {cache} bytes a token in bf16"
    title = "bytes a knowledge token against LLaMA2-7B's cache"
    rows = [
        Comparison(f"{title}, {kind}", aim, sizes[f"token_{kind}"] / cache, note=note)
        for kind, aim in (("bf16", 1 / 40), ("int8", 1 / 80))
    ]
    for name in ("attention", "exact"):
        attached = llama2_7b_bank(llama, name)
        note = f"keys and values of {len(attached.bank.layers)} layers"
        share = floor.slot_bytes(attached) / cache
        rows.append(Comparison(f"{title}, {name}, bf16", None, share, note=note))
    decoder = {name: floor.slot_bytes(bench.model(name).attached) for name in bench.names}
    return rows, {"llama2_7b": sizes, "decoder": {"cache": floor.cache_bytes(bench.decoder, 1), **decoder}}


def _file_bytes(attached: Attached, precision: str) -> float:
    """Return the bytes of a token of K in a file of prepared knowledge, by the sizes of two files."""
    shapes = {name: tensor.shape for name, tensor in floor.prepare_bank(attached, 64).tensors.items()}
    sizes = []
    for length in (64, 128):
        tensors = {
            name: torch.zeros(shape[0], length, *shape[3:], dtype=torch.bfloat16) for name, shape in shapes.items()
        }
        sizes.append(len(PreparedKnowledge(tensors, 0, "").to_bytes(precision)))
    return (sizes[1] - sizes[0]) / 64


def _count_llama(inputs: int) -> list[Comparison]:
    """Count what a bank needs above D(x) at most: weights, prepared knowledge, and the tensors of its own passes."""
    decoder = llama2_7b()
    rows = []
    for name in ("token", "reader", "attention", "exact"):
        attached = llama2_7b_bank(decoder, name)
        prepared, weights = LENGTH * floor.slot_bytes(attached), floor.weight_bytes(attached.bank)
        answer = floor.bank_peak(attached, 1 + inputs, LENGTH)
        parts = f"weights {weights}, prepared knowledge {prepared}, pass {answer} bytes"
        note = f"|x| {inputs}; tensors counted on `meta`: {parts}"
        title = f"peak memory above D(x) at |K| {LENGTH}, GB, {name}, LLaMA2-7B's shape"
        aim = 0.3 if name in ("token", "reader") else None
        rows.append(Comparison(title, aim, (weights + prepared + answer) / 1e9, note=note))
    return [*rows, _count_llama_cold()]


def _count_llama_cold() -> Comparison:
    """Count the peak of a token bank that reads K. It runs in fp32: that CPU kernel keeps no scores in RAM."""
    width = llama2_7b().config.hidden_size
    bank = Bank("token", {}, MEMIT_LAYERS, width, width)
    states, mask = torch.zeros(1, 1, LENGTH, width), torch.ones(1, LENGTH, dtype=torch.bool)
    weights, peak = floor.weight_bytes(bank), counters.peak_bytes(lambda: bank.prepare(states, mask))
    note = f"run on a CPU in fp32, in bf16 half of it: weights {weights}, preparing {peak} bytes with what is prepared"
    title = f"peak memory above D(x) at |K| {LENGTH}, GB, token, LLaMA2-7B's shape, cold"
    return Comparison(title, 0.3, (weights + peak) / 1e9, note=note)
