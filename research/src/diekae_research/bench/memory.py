"""Bytes: what a token of prepared knowledge takes, and how much RAM a pass needs above D(x)."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import torch

from diekae.config import MEMIT_LAYERS
from diekae.encoders.bank import Bank
from diekae.inject.attached import Attached
from diekae.inject.cache import forked
from diekae.knowledge import PreparedKnowledge
from diekae.prepare import read_documents
from diekae_research.bench import counters, floor
from diekae_research.bench.llama import llama2_7b, llama2_7b_bank
from diekae_research.bench.setting import Bench, Comparison
from diekae_research.evaluation.peak_memory import peak_memory
from diekae_research.provenance import name_of

LENGTH = 2048
"""|K| of the peaks."""
PROMPTED = ("bare", "prompted_cached", "prompted")
"""Ways without a bank whose peaks are measured."""
COLD = "_cold"
"""Follows a bank's name where K is read in the measured pass."""


@torch.no_grad()
def measure(bench: Bench) -> dict[str, Any]:
    """Measure bytes and peaks. Peaks need a decoder that another process can load by name."""
    rows, sizes = _knowledge_bytes(bench)
    peaks = _peaks(bench)
    for name in list(peaks)[1:]:
        note = f"|K| {LENGTH}, |x| {bench.inputs}; resident size of a new process; what stays of K is included"
        title = f"peak memory above D(x), GB, {name}"
        rows.append(Comparison(title, None, peaks[name] - peaks["bare"], note=note))
    return {"rows": [*rows, *_count_llama(bench.inputs)], "bytes": sizes, "peak_gb": peaks}


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


def _peaks(bench: Bench) -> dict[str, float]:
    """Return the peak of each way in GB above the weights, each measured in a new process.

    The result is empty for a decoder without a name, which another process cannot load.
    """
    name = str(bench.decoder.config.name_or_path)
    if not name:
        return {}
    ways = [*PROMPTED, *(way for bank in bench.names for way in (bank, f"{bank}{COLD}"))]
    options = [str(bench.inputs), name_of(bench.decoder.dtype)]
    if bench.bank is not None:
        options.append(str(bench.bank))
    peaks = {}
    for number, way in enumerate(ways):
        command = [sys.executable, "-m", "diekae_research.bench.memory", name, way, *options]
        process = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks[way] = json.loads(process.stdout.splitlines()[-1]) / 1e9
        bench.progress("peak memory", number + 1, len(ways))
    return peaks


def _peak(name: str, way: str, inputs: str, dtype: str, bank: str | None = None) -> int:
    """Return the peak of one way in this process in bytes: the bank, and all that stays of K for the next question."""
    from diekae.models import load_decoder

    torch.set_num_threads(1)
    decoder, _ = load_decoder(name, dtype=getattr(torch, dtype))
    bench = Bench(decoder, inputs=int(inputs), bank=bank)
    ids, knowledge, anchor = bench.question(), bench.ids(LENGTH), len(bench.anchor)
    options = {"use_cache": True, "logits_to_keep": 1}
    decoder(input_ids=ids, **options)  # what is allocated only once is not counted

    def run() -> object:
        if way == "bare":
            return decoder(input_ids=ids, **options)
        if way == "prompted_cached":
            prefix = bench.prefix(LENGTH)
            return prefix, decoder(input_ids=ids[:, anchor:], past_key_values=forked(prefix), **options)
        if way == "prompted":
            return decoder(input_ids=torch.cat([ids[:, :anchor], knowledge, ids[:, anchor:]], dim=1), **options)
        model = bench.model(way.removesuffix(COLD))
        if way.endswith(COLD):
            (prepared,) = read_documents(model.attached, model.anchor, knowledge.tolist())
        else:
            prepared = bench.prepared(model, LENGTH)
        return model(ids, knowledge=prepared, **options)

    return peak_memory(run).added


if __name__ == "__main__":
    with torch.no_grad():
        print(json.dumps(_peak(*sys.argv[1:])))
