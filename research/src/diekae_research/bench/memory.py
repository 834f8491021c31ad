"""Bytes: what a token of knowledge takes once it is prepared, and what a pass needs above D(x)."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import torch

from diekae.config import MEMIT_LAYERS
from diekae.encoders.bank import Bank
from diekae.knowledge import PreparedKnowledge
from diekae.prepare import read_documents
from diekae.run.score import forked
from diekae.store.blob import pack
from diekae_research.bench import floor
from diekae_research.bench.setting import Bench, Row, beside_llama2_7b, llama2_7b
from diekae_research.evaluation.peak_memory import peak_memory
from diekae_research.provenance import name_of

LENGTH = 2048
"""|K| of the peaks."""
PROMPTED = ("bare", "prompted_cached", "prompted")
"""What the peak is measured of besides banks, each in a process of its own."""
COLD = "_cold"
"""What is added to a bank's name where it reads K too."""


@torch.no_grad()
def measure(bench: Bench) -> dict[str, Any]:
    """Measure the rows of bytes; peaks only of a decoder that a process of its own can load by name."""
    rows, sizes = _sizes(bench)
    peaks = _peaks(bench)
    if peaks:
        for name in list(peaks)[1:]:
            note = f"|K| {LENGTH}, |x| {bench.inputs}; resident size of a process of its own; what K left is kept"
            rows.append(Row(f"peak memory above D(x), GB, {name}", None, peaks[name] - peaks["bare"], note=note))
    return {"rows": [row.to_dict() for row in rows + _llama_peaks(bench.inputs)], "bytes": sizes, "peak_gb": peaks}


def _sizes(bench: Bench) -> tuple[list[Row], dict[str, Any]]:
    """Compare the bytes of a token of K."""
    decoder = llama2_7b()
    attached = {name: beside_llama2_7b(decoder, name) for name in ("token", "attention", "exact")}
    cache = floor.cache_bytes(decoder, 1)
    # The shapes are those of the device `meta`; what int8 takes is read off files of two lengths.
    shapes = {name: tensor.shape for name, tensor in floor.prepare_bank(attached["token"], 64).tensors.items()}
    files = [
        len(
            pack(
                PreparedKnowledge(
                    {n: torch.zeros(s[0], k, *s[3:], dtype=torch.bfloat16) for n, s in shapes.items()}, 0, ""
                ),
                p,
            )
        )
        for p in ("exact", "int8")
        for k in (64, 128)
    ]
    exact, small = (files[1] - files[0]) / 64, (files[3] - files[2]) / 64
    note = f"six token encoders of width 128; cache {cache} bytes a token in bf16"
    title = "bytes a knowledge token against LLaMA2-7B's cache"
    rows = [
        Row(f"{title}, bf16", 1 / 40, exact / cache, note=note),
        Row(f"{title}, int8", 1 / 80, small / cache, note=note),
    ]
    for name in ("attention", "exact"):
        share = floor.slot_bytes(attached[name]) / cache
        layers = len(attached[name].bank.layers)
        rows.append(Row(f"{title}, {name}, bf16", None, share, note=f"keys and values of {layers} layers"))
    sizes = {"llama2_7b": {"cache": cache, "token_bf16": exact, "token_int8": small}}
    sizes["decoder"] = {"cache": floor.cache_bytes(bench.decoder, 1)}
    for name in bench.names:
        sizes["decoder"][name] = floor.slot_bytes(bench.model(name).attached)
    return rows, sizes


def _llama_peaks(inputs: int) -> list[Row]:
    """Count what a bank needs above D(x) at most: weights, memory, and all tensors of its own passes."""
    decoder = llama2_7b()
    rows = []
    for name in ("token", "reader", "attention", "exact"):
        attached = beside_llama2_7b(decoder, name)
        memory, weights = LENGTH * floor.slot_bytes(attached), floor.weight_bytes(attached.bank)
        answer = floor.bank_peak(attached, 1 + inputs, LENGTH)
        note = f"|x| {inputs}; tensors counted on `meta`: weights {weights}, memory {memory}"
        title = f"peak memory above D(x) at |K| {LENGTH}, GB, {name}, LLaMA2-7B's shape"
        aim = 0.3 if name in ("token", "reader") else None
        rows.append(Row(title, aim, (weights + memory + answer) / 1e9, note=f"{note}, pass {answer} bytes"))
    return [*rows, _llama_cold()]


def _llama_cold() -> Row:
    """Count the peak of a token bank that reads K: really run, in fp32, for the kernel that holds no scores."""
    shape = llama2_7b().config
    bank = Bank("token", {}, MEMIT_LAYERS, shape.hidden_size, shape.hidden_size)
    known, mask = torch.zeros(1, 1, LENGTH, shape.hidden_size), torch.ones(1, LENGTH, dtype=torch.bool)
    weights, peak = floor.weight_bytes(bank), floor.peak_bytes(lambda: bank.prepare(known, mask))
    note = f"run on a CPU in fp32, in bf16 half of it: weights {weights}, preparing {peak} bytes, memory among them"
    title = f"peak memory above D(x) at |K| {LENGTH}, GB, token, LLaMA2-7B's shape, cold"
    return Row(title, 0.3, (weights + peak) / 1e9, note=note)


def _peaks(bench: Bench) -> dict[str, float]:
    """Return the peak of each way in GB, above the weights; nothing for a decoder without a name."""
    name = str(bench.decoder.config.name_or_path)
    if not name:
        return {}
    ways = [*PROMPTED, *(way for bank in bench.names for way in (bank, f"{bank}{COLD}"))]
    given = [] if bench.bank is None else [str(bench.bank)]
    found = {}
    for number, way in enumerate(ways):
        sizes = [str(bench.inputs), name_of(bench.decoder.dtype)]
        command = [sys.executable, "-m", "diekae_research.bench.memory", name, way, *sizes, *given]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[way] = json.loads(done.stdout.splitlines()[-1]) / 1e9
        bench.progress("peak memory", number + 1, len(ways))
    return found


def _peak(name: str, way: str, inputs: int, dtype: str, bank: str | None = None) -> int:
    """Return the peak of one way in this process, bank included, and all that stays of K for the next question."""
    from diekae.models import load_decoder

    torch.set_num_threads(1)
    decoder, _ = load_decoder(name, dtype=getattr(torch, dtype))
    bench = Bench(decoder, inputs=inputs, bank=bank)
    ids, known, anchor = bench.question(), bench.ids(LENGTH), len(bench.anchor)
    options = {"use_cache": True, "logits_to_keep": 1}
    decoder(input_ids=ids, **options)  # whatever is set up once

    def run() -> object:
        if way == "bare":
            return decoder(input_ids=ids, **options)
        if way == "prompted_cached":
            kept = bench.prefix(LENGTH)
            return kept, decoder(input_ids=ids[:, anchor:], past_key_values=forked(kept), **options)
        if way == "prompted":
            return decoder(input_ids=torch.cat([ids[:, :anchor], known, ids[:, anchor:]], dim=1), **options)
        model = bench.model(way.removesuffix(COLD))
        if way.endswith(COLD):
            (memory,) = read_documents(model.attached, model.anchor, known.tolist())
        else:
            memory = bench.prepared(model, LENGTH)
        return model(ids, knowledge=memory, **options)

    return peak_memory(run).added


if __name__ == "__main__":
    with torch.no_grad():
        print(json.dumps(_peak(sys.argv[1], sys.argv[2], int(sys.argv[3]), *sys.argv[4:])))
