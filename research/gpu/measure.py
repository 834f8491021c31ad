"""What do a pass, a generated token and a training step cost on a GPU? LLaMA2-7B's shape, random weights in bf16.

    research/gpu/run.sh

The bank `exact` reads K in all layers, `attention` in every second one. Both are compared with D(x), and with D(K, x)
behind the cached keys and values of anchor and K, in the same process, on the same question; see
`diekae_research.bench.setting`. Speed depends on nothing learned. Exactness is measured too: logits with K in slots
against logits with K in the prompt.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM, PreTrainedModel

from diekae.data.batch import to_device
from diekae.inject.cache import forked
from diekae.inject.hooks import frozen
from diekae.prepare import read_documents
from diekae.provenance import name_of, write_json
from diekae.run.peak_memory import peak_memory
from diekae.run.timing import time_in_turn
from diekae.training.objectives import DistillObjective
from diekae_research.bench import Bench, decode, inference
from diekae_research.bench.llama import llama2_7b_config
from diekae_research.bench.steps import bank_step, random_batch

START = time.perf_counter()
FULL: dict[str, Any] = {"lengths": (128, 1024, 4096, 16384), "inputs": 32, "rounds": 7}
TINY: dict[str, Any] = {"lengths": (16, 128), "inputs": 8, "rounds": 2}
TINY_SHAPE = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}
LONGEST_STATIC = 4096
"""|K| beyond which no cache of fixed size is measured: with all others it would not fit a card of 80 GB."""
STEP = {"rows": 4, "knowledge": 512, "target": 16}
"""Sizes of the batch of a training step."""
STEPS = 3
"""Training steps that are timed, after one to warm up."""


def make_decoder(tiny: bool, device: str) -> PreTrainedModel:
    """Return a random decoder whose window holds the longest K: in bf16, or a tiny one in fp32."""
    longest = max((TINY if tiny else FULL)["lengths"])
    config = llama2_7b_config(**(TINY_SHAPE if tiny else {}), max_position_embeddings=longest + 1024)
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float32 if tiny else torch.bfloat16)
    try:
        with torch.device(device):
            decoder: PreTrainedModel = LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(torch.float32)
    return decoder


@torch.no_grad()
def exactness(bench: Bench) -> dict[str, float]:
    """Compare the last logits with K in the slots of all layers, and with K in the prompt."""
    model, length = bench.model("exact"), bench.fitting_lengths()[1]
    ids, knowledge, anchor = bench.question(), bench.ids(length), len(bench.anchor)
    (prepared,) = read_documents(model.attached, model.anchor, knowledge.tolist())
    whole = torch.cat([ids[:, :anchor], knowledge, ids[:, anchor:]], dim=1)
    outputs = (
        model(ids, knowledge=prepared, logits_to_keep=1),
        bench.decoder(input_ids=ids, logits_to_keep=1),
        bench.decoder(input_ids=whole, logits_to_keep=1),
    )
    ours, bare, prompted = (output.logits[0, -1].float() for output in outputs)
    error, change = float((ours - prompted).abs().max()), float((bare - prompted).abs().max())
    result = {"knowledge": length, "largest_error": error, "largest_change_by_k": change}
    report("exactness", result)
    return result


@torch.no_grad()
def seconds(bench: Bench) -> dict[str, Any]:
    """Return seconds of a pass and of a generated token by |K|, and the ratios to D(x) and to a cached prefix."""
    results: dict[str, Any] = {"pass": {}, "token": {}}
    for what, benchmark, share in (("pass", inference, 1), ("token", decode, decode.TOKENS)):
        for length in bench.fitting_lengths():
            ways = benchmark.ways(bench, length)
            if length > LONGEST_STATIC:
                ways.pop("prompted_static", None)
            times = bench.seconds(f"{what}, |K| {length}", ways)
            del ways  # they hold caches that the next length needs room for
            empty_cache()
            results[what][str(length)] = {
                "seconds": {name: value / share for name, value in times.items()},
                "against_bare": {name: times.ratio(name, "bare") for name in times},
                "against_cached": {name: times.ratio(name, "prompted_cached") for name in times},
            }
            report(f"{what}, |K| {length}", results[what][str(length)]["against_cached"])
    return results


@torch.no_grad()
def peak_gb(bench: Bench) -> dict[str, dict[str, float]]:
    """Return the peak memory of a pass and some tokens in GB above the weights, by |K| and way.

    All that stays of K for the next question is included.
    """
    ids, anchor = bench.question(), len(bench.anchor)

    def read(ids: torch.Tensor, **options: Any) -> None:
        output = bench.decoder(input_ids=ids, use_cache=True, logits_to_keep=1, **options)
        decode.generate(bench, output.cache)

    def run(way: str, length: int) -> object:
        if way == "bare":
            return read(ids)
        if way == "prompted_cached":
            prefix = bench.prefix(length)
            read(ids[:, anchor:], cache=forked(prefix))
            return prefix
        model = bench.model(way)
        prepared = bench.prepared(model, length)
        with model.call_context(prepared, ids):
            read(ids)
        return prepared

    peaks: dict[str, dict[str, float]] = {}
    for length in bench.fitting_lengths():
        peaks[str(length)] = {
            way: peak_memory(lambda way=way, length=length: run(way, length), bench.decoder.device).added / 1e9
            for way in ("bare", "prompted_cached", *bench.names)
        }
        report(f"peak memory above the weights, |K| {length}, GB", peaks[str(length)])
    return peaks


def training_step(bench: Bench) -> dict[str, Any]:
    """Time one step of distillation of an `attention` bank, and measure its peak memory."""
    model, device = bench.model("attention"), bench.decoder.device
    sizes = {**STEP, "knowledge": min(STEP["knowledge"], bench.fitting_lengths()[-1])}
    batch = to_device(random_batch(bench, model, sizes), device)
    with frozen(bench.decoder):
        step = bank_step(DistillObjective(model), batch)
        time_taken = time_in_turn({"step": step}, STEPS)["step"]
        peak = peak_memory(torch.enable_grad()(step), device)
    result = {
        **sizes,
        "inputs": bench.inputs,
        "parameters": sum(parameter.numel() for parameter in model.bank.parameters()),
        "bank_dtype": name_of(model.bank.dtype),
        "seconds": time_taken,
        "peak_gb": peak.peak / 1e9,
        "peak_added_gb": peak.added / 1e9,
    }
    report("training step", result)
    return result


def report(what: str, values: Any) -> None:
    """Print results at once, after the seconds since the start. A machine may be taken back before the end."""
    if isinstance(values, dict):
        values = {name: round(value, 3) if isinstance(value, float) else value for name, value in values.items()}
    print(f"{time.perf_counter() - START:6.0f} s  {what}: {values}", flush=True)


def empty_cache() -> None:
    """Return freed blocks to the GPU, so that blocks of another size fit."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def main() -> None:
    """Measure part by part, and write the file after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument("--tiny", action="store_true", help="a tiny decoder in fp32, to see that the script runs")
    arguments = parser.parse_args()
    if not arguments.tiny and not torch.cuda.is_available():
        sys.exit("there is no CUDA device; --tiny runs anywhere.")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        torch.set_num_threads(1)
    decoder = make_decoder(arguments.tiny, device)
    bench = Bench(decoder, others=(), **(TINY if arguments.tiny else FULL))
    report("decoder", f"{decoder.num_parameters():,} parameters on {device}")
    result: dict[str, Any] = {
        "decoder": {name: getattr(decoder.config, name) for name in (*TINY_SHAPE, "max_position_embeddings")},
        "dtype": name_of(decoder.dtype),
        "inputs": bench.inputs,
        "anchor": len(bench.anchor),
        "rounds": bench.rounds,
        "tokens": decode.TOKENS,
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    for part in (exactness, seconds, peak_gb, training_step):
        result[part.__name__] = part(bench)
        write_json(arguments.json, result)
        empty_cache()


if __name__ == "__main__":
    main()
