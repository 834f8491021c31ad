"""What a pass, a generated token and a training step cost on a GPU: LLaMA2-7B's shape, random weights in bf16.

    research/gpu/run.sh

`exact` reads K in all layers and `attention` in every second one. Each stands beside D(x) and beside D(K, x) behind the
cached keys and values of anchor and K, in the same process, on the same question; see `diekae_research.bench.setting`. Speed
depends on nothing learned, but exactness is seen too: logits of ours against those of K in the prompt.
"""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM, PreTrainedModel

from diekae.data.prompt import to_device
from diekae.inject.hooks import frozen
from diekae.prepare import read_documents
from diekae.provenance import name_of, write_json
from diekae.run.score import forked
from diekae.run.timing import Way, time_in_turn
from diekae.training.objectives import DistillObjective
from diekae_research.bench import Bench, decode, inference
from diekae_research.bench.setting import llama2_7b_config
from diekae_research.bench.train import bank_step, random_data
from diekae_research.evaluation.peak_memory import peak_memory

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
STATIC_MOST = 4096
"""|K| beyond which a cache of fixed size is left out: with all others it would not fit a card of 80 GB."""
STEP = {"rows": 4, "knowledge": 512, "target": 16}
"""Sizes of the batch of a training step."""
STEPS = 3
"""Training steps that are timed, after one that warms up."""


def make_decoder(tiny: bool, device: str) -> PreTrainedModel:
    """Return a random decoder whose window holds the longest K: in bf16, or a tiny one in fp32."""
    sizes = TINY if tiny else FULL
    shape = {**(TINY_SHAPE if tiny else {}), "max_position_embeddings": max(sizes["lengths"]) + 1024}
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float32 if tiny else torch.bfloat16)
    try:
        with torch.device(device):
            decoder: PreTrainedModel = LlamaForCausalLM(llama2_7b_config(**shape)).eval()
    finally:
        torch.set_default_dtype(torch.float32)
    return decoder


@torch.no_grad()
def time_ways(bench: Bench) -> dict[str, Any]:
    """Return seconds of a pass and of a generated token by |K|, and the ratios to D(x) and to a cached prefix."""
    found: dict[str, Any] = {}
    for what, module, share in (("pass", inference, 1), ("token", decode, decode.TOKENS)):
        found[what] = {}
        for length in bench.fitting():
            ways = module.ways(bench, length)
            if length > STATIC_MOST:
                ways.pop("prompted_static", None)
            times = bench.seconds(f"{what}, |K| {length}", ways)
            del ways
            point = {
                "seconds": {name: value / share for name, value in times.items()},
                "against_bare": {name: times.ratio(name, "bare") for name in times},
                "against_cached": {name: times.ratio(name, "prompted_cached") for name in times},
            }
            found[what][str(length)] = point
            rounded = {name: round(ratio, 3) for name, ratio in point["against_cached"].items()}
            say(f"{what}, |K| {length}, against a cached prefix", rounded)
            empty_cache()
    return found


@torch.no_grad()
def peaks(bench: Bench) -> dict[str, dict[str, float]]:
    """Return the peak memory of a pass and some tokens in GB above the weights, by |K| and way.

    All that stays of K for the next question is counted.
    """
    found: dict[str, dict[str, float]] = {}
    ids, anchor = bench.question(), len(bench.anchor)
    options = {"use_cache": True, "logits_to_keep": 1}

    def bare() -> object:
        cache = bench.decoder(input_ids=ids, **options).past_key_values
        decode.generate(bench, cache)
        return cache

    def cached(length: int) -> object:
        kept = bench.prefix(length)
        cache = forked(kept)
        bench.decoder(input_ids=ids[:, anchor:], past_key_values=cache, **options)
        decode.generate(bench, cache)
        return kept

    def ours(name: str, length: int) -> object:
        model = bench.model(name)
        prepared = bench.prepared(model, length)
        with model.behind(prepared, ids):
            cache = bench.decoder(input_ids=ids, **options).past_key_values
            decode.generate(bench, cache)
        return prepared

    for length in bench.fitting():
        ways: dict[str, Way] = {"bare": bare, "prompted_cached": partial(cached, length)}
        ways |= {name: partial(ours, name, length) for name in bench.names}
        added = {name: peak_memory(way, bench.decoder.device).added / 1e9 for name, way in ways.items()}
        found[str(length)] = added
        say(f"peak memory above the weights, |K| {length}, GB", {n: round(v, 3) for n, v in added.items()})
    return found


@torch.no_grad()
def exactness(bench: Bench) -> dict[str, float]:
    """Compare logits of the last column with K as slots of all layers, and with K in the prompt."""
    model, length = bench.model("exact"), bench.fitting()[1]
    ids, known, anchor = bench.question(), bench.ids(length), len(bench.anchor)
    (prepared,) = read_documents(model.attached, model.anchor, known.tolist())

    def last(out: Any) -> torch.Tensor:
        logits: torch.Tensor = out.logits[0, -1].float()
        return logits

    ours = last(model(ids, knowledge=prepared, logits_to_keep=1))
    bare = last(bench.decoder(input_ids=ids, logits_to_keep=1))
    whole = torch.cat([ids[:, :anchor], known, ids[:, anchor:]], dim=1)
    prompted = last(bench.decoder(input_ids=whole, logits_to_keep=1))
    error, change = float((ours - prompted).abs().max()), float((bare - prompted).abs().max())
    found = {"knowledge": length, "largest_error": error, "largest_change_by_k": change}
    say("exactness", found)
    return found


def training_step(bench: Bench) -> dict[str, Any]:
    """Time one step of distillation of an `attention` bank, and measure its peak memory."""
    model = bench.model("attention")
    sizes = {**STEP, "knowledge": min(STEP["knowledge"], bench.fitting()[-1])}
    batch = to_device(random_data(bench, model, sizes).batch(), bench.decoder.device)
    with frozen(bench.decoder):
        step = bank_step(DistillObjective(model), batch)
        seconds = time_in_turn({"step": step}, STEPS)["step"]

        def graded() -> object:
            with torch.enable_grad():
                return step()

        peak = peak_memory(graded, bench.decoder.device)
    parameters = sum(parameter.numel() for parameter in model.bank.parameters())
    found = {
        **sizes,
        "inputs": bench.inputs,
        "parameters": parameters,
        "bank_dtype": name_of(model.bank.dtype),
        "seconds": seconds,
        "peak_gb": peak.peak / 1e9,
        "peak_added_gb": peak.added / 1e9,
    }
    say("training step", found)
    return found


def say(what: str, found: Any) -> None:
    """Print a line with the seconds since the start: what is lost when a machine is taken back is not lost here."""
    print(f"{time.perf_counter() - START:6.0f} s  {what}: {found}", flush=True)


def empty_cache() -> None:
    """Hand freed blocks back, so that others of another size fit."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def main() -> None:
    """Measure, and write after every part what is known by then."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument("--tiny", action="store_true", help="a tiny decoder in fp32, to see that this runs")
    arguments = parser.parse_args()
    if not arguments.tiny and not torch.cuda.is_available():
        sys.exit("there is no CUDA device; --tiny runs anywhere.")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        torch.set_num_threads(1)
    decoder = make_decoder(arguments.tiny, device)
    bench = Bench(decoder, others=(), **(TINY if arguments.tiny else FULL))
    say("decoder", f"{decoder.num_parameters():,} parameters on {device}")
    sizes = {"inputs": bench.inputs, "anchor": len(bench.anchor), "rounds": bench.rounds, "tokens": decode.TOKENS}
    shape = {name: decoder.config.to_dict()[name] for name in (*TINY_SHAPE, "max_position_embeddings")}
    result: dict[str, Any] = {"decoder": shape, "dtype": name_of(decoder.dtype), **sizes}
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    for name, part in (
        ("exactness", exactness),
        ("seconds", time_ways),
        ("peak_gb", peaks),
        ("training_step", training_step),
    ):
        result[name] = part(bench)
        write_json(arguments.json, result)
        empty_cache()


START = time.perf_counter()

if __name__ == "__main__":
    main()
