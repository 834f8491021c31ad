"""Bytes: what a token of knowledge takes once it is prepared, and what a pass needs above D(x)."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import torch

from diekae.bench import floor
from diekae.bench.setting import Bench, Row, llama2_7b
from diekae.config import MEMIT_LAYERS
from diekae.encoders.bank import Bank
from diekae.evaluation.memory import peak_memory
from diekae.memory import Memory
from diekae.store.blob import pack

LENGTH = 2048
"""|K| of the peaks."""
WAYS = ("bare", "prompted_cached", "prompted", "token", "token_cold", "reader", "reader_cold")
"""What the peak is measured of, each in a process of its own."""


@torch.no_grad()
def measure(bench: Bench) -> dict[str, Any]:
    """Measure the rows of bytes; peaks only of a decoder that a process of its own can load by name."""
    rows, sizes = _sizes(bench)
    peaks = _peaks(bench)
    if peaks:
        for name in WAYS[1:]:
            note = f"SmolLM2-135M, fp32, |K| {LENGTH}, |x| 32; resident size of a process of its own"
            rows.append(Row(f"peak memory above D(x), GB, {name}", None, peaks[name] - peaks["bare"], note=note))
    return {"rows": [row.to_dict() for row in rows + _llama_peaks(bench.inputs)], "bytes": sizes, "peak_gb": peaks}


def _sizes(bench: Bench) -> tuple[list[Row], dict[str, Any]]:
    """Compare the bytes of a token of K."""
    seven = Bench(llama2_7b())
    model = seven.model("token")
    model.bank.to(torch.bfloat16)
    cache = floor.cache_bytes(seven.decoder, 1)
    # The shapes are those of the device `meta`; what int8 takes is read off files of two lengths.
    shapes = {name: tensor.shape for name, tensor in floor.prepare_bank(model, 64).tensors.items()}
    files = [
        len(pack(Memory({n: torch.zeros(s[0], k, *s[3:], dtype=torch.bfloat16) for n, s in shapes.items()}, 0, ""), p))
        for p in ("exact", "int8")
        for k in (64, 128)
    ]
    exact, small = (files[1] - files[0]) / 64, (files[3] - files[2]) / 64
    note = f"six token encoders of width 128; cache {cache} bytes a token in bf16"
    rows = [
        Row("bytes a knowledge token against LLaMA2-7B's cache, bf16", 1 / 40, exact / cache, note=note),
        Row("bytes a knowledge token against LLaMA2-7B's cache, int8", 1 / 80, small / cache, note=note),
    ]
    sizes = {"llama2_7b": {"cache": cache, "token_bf16": exact, "token_int8": small}}
    own: dict[str, float] = {"cache": floor.cache_bytes(bench.decoder, 1)}
    for name in ("token", "reader", "attention"):
        tensors = floor.prepare_bank(bench.model(name), 1).tensors.values()
        own[name] = sum(tensor.nbytes for tensor in tensors)
    sizes["decoder"] = own
    return rows, sizes


def _llama_peaks(inputs: int) -> list[Row]:
    """Count what a bank needs above D(x) at most: weights, memory, and all tensors of its own passes."""
    seven = Bench(llama2_7b(), inputs=inputs)
    rows = []
    for name in ("token", "reader"):
        model = seven.model(name)
        model.bank.to(torch.bfloat16)
        memory = sum(tensor.nbytes for tensor in floor.prepare_bank(model, LENGTH).tensors.values())
        answer = floor.bank_peak(model, inputs, LENGTH)
        weights = floor.weight_bytes(model.bank)
        note = f"|x| {inputs}; tensors counted on `meta`: weights {weights}, memory {memory}"
        title = f"peak memory above D(x) at |K| {LENGTH}, GB, {name}, LLaMA2-7B's shape"
        rows.append(Row(title, 0.3, (weights + memory + answer) / 1e9, note=f"{note}, pass {answer} bytes"))
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
    found = {}
    for number, way in enumerate(WAYS):
        command = [sys.executable, "-m", "diekae.bench.memory", name, way, str(bench.inputs)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[way] = json.loads(done.stdout.splitlines()[-1]) / 1e9
        bench.progress("peak memory", number + 1, len(WAYS))
    return found


def _peak(name: str, way: str, inputs: int) -> int:
    """Return the peak of one way in this process, memory and bank included."""
    from diekae.models import load_decoder
    from diekae.prepare import read_documents

    torch.set_num_threads(1)
    decoder, _ = load_decoder(name)
    bench = Bench(decoder, inputs=inputs)
    ids, known = bench.ids(inputs), bench.ids(LENGTH)
    options = {"use_cache": False, "logits_to_keep": 1}
    decoder(input_ids=ids, **options)  # whatever is set up once

    def run() -> object:
        if way == "bare":
            return decoder(input_ids=ids, **options)
        if way == "prompted_cached":
            return decoder(input_ids=ids, past_key_values=bench.cache(LENGTH + 1), use_cache=True, logits_to_keep=1)
        if way == "prompted":
            return decoder(input_ids=torch.cat([ids[:, :1], known, ids], dim=1), **options)
        model = bench.model(way.removesuffix("_cold"))
        if way.endswith("_cold"):
            (memory,) = read_documents(model.attached, model.anchor, known.tolist())
        else:
            memory = bench.memory(model, LENGTH)
        return model(ids, knowledge=memory, **options)

    return peak_memory(run).added


if __name__ == "__main__":
    with torch.no_grad():
        print(json.dumps(_peak(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
