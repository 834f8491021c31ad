"""A generated token: with prepared knowledge, against D(x), and against D(K, x) behind a cached prefix."""

from __future__ import annotations

from typing import Any

import torch
from transformers import StaticCache

from diekae.bench import floor
from diekae.bench.inference import curve
from diekae.bench.setting import Bench, Row, copied, llama2_7b
from diekae.memory import Memory
from diekae.model import DiekaeModel
from diekae.run.timing import Times

TOKENS = 8
"""Tokens that are generated in a row, of which the mean counts."""


@torch.no_grad()
def measure(bench: Bench) -> dict[str, Any]:
    """Measure the rows "a generated token"."""
    seconds: dict[str, dict[str, float]] = {}
    times: dict[str, Times] = {}
    for length in bench.fitting():
        ways: dict[str, Any] = {"bare": _bare(bench), "prompted_cached": _cached(bench, length)}
        if bench.decoder.config.get_text_config(decoder=True).model_type == "llama":
            ways["prompted_static"] = _static(bench, length)
        for name, scope in (("token", "prompt"), ("reader", "all"), ("attention", "all")):
            model = bench.model(name)
            ways[f"{name}_{scope}"] = _ours(bench, model, bench.memory(model, length), scope)
        found = bench.seconds(f"generated token, |K| {length}", ways)
        times[str(length)] = found
        seconds[str(length)] = {name: value / TOKENS for name, value in found.items()}
    rows = []
    for length in (128, 1024, 4096):
        if (at := seconds.get(str(length))) is None:
            continue
        title = f"generated token, prompt scope, |K| {length}, against D(x)"
        ratio = round(times[str(length)].ratio("token_prompt", "bare"), 2)
        rows.append(Row(title, 1.0, ratio, 1.0, note="the encoders do not run; to two digits"))
        cached = min((name for name in at if name.startswith("prompted")), key=lambda name: at[name])
        for name in ("reader", "attention"):
            least = _least_bytes(bench, bench.model(name), length)
            title = f"generated token, {name}, all, |K| {length}, against D(K,x) cached"
            aim = 0.6 if length == 4096 and name == "reader" else None
            note = "the faster of a growing and a static cache; floor by bytes read"
            rows.append(Row(title, aim, times[str(length)].ratio(f"{name}_all", cached), least, note=note))
    points = sorted(seconds, key=int)
    ways = {name: [seconds[point][name] for point in points] for name in seconds[points[0]]} if points else {}
    return {
        "rows": [row.to_dict() for row in rows + _llama_rows()],
        "seconds": seconds,
        "curves": {"knowledge": curve([int(point) for point in points], ways)},
    }


def _steps(bench: Bench, cache: Any) -> None:
    """Generate from a fixed token, as greedy decoding would, but for the choice of it."""
    token = bench.ids(1)
    for _ in range(TOKENS):
        bench.decoder(input_ids=token, past_key_values=cache, use_cache=True, logits_to_keep=1)


def _bare(bench: Bench) -> Any:
    cache = bench.cache(bench.inputs)
    return (lambda: copied(cache)), (lambda own: _steps(bench, own))


def _cached(bench: Bench, length: int) -> Any:
    cache = bench.cache(length + bench.inputs)
    return (lambda: copied(cache)), (lambda own: _steps(bench, own))


def _static(bench: Bench, length: int) -> Any:
    """A cache of fixed size, which copies nothing as it grows."""
    known = length + bench.inputs

    def make() -> StaticCache:
        cache = StaticCache(config=bench.decoder.config, max_cache_len=known + TOKENS)
        layers: Any = bench.cache(known).layers
        for number, layer in enumerate(layers):
            cache.update(layer.keys, layer.values, number)
        return cache

    return make, (lambda own: _steps(bench, own))


def _ours(bench: Bench, model: DiekaeModel, memory: Memory, scope: str) -> Any:
    """Read x with injection, untimed, and generate behind it."""
    ids = bench.ids(bench.inputs)

    def make() -> tuple[Any, Any]:
        context = model.injected(memory, ids, scope=scope)
        context.__enter__()
        out = bench.decoder(input_ids=ids, use_cache=True, logits_to_keep=1)
        return context, out.past_key_values

    def run(given: tuple[Any, Any]) -> None:
        context, cache = given
        try:
            _steps(bench, cache)
        finally:
            context.__exit__(None, None, None)

    return make, run


def _least_bytes(bench: Bench, model: DiekaeModel, length: int) -> float:
    """Return the bytes that a token must read with ours, against those with K's keys and values."""
    weights, one = floor.decode_bytes(bench.decoder), floor.cache_bytes(bench.decoder, 1)
    memory = sum(tensor.nbytes for tensor in floor.prepare_bank(model, 1).tensors.values())
    ours = weights + floor.weight_bytes(model.bank) + length * memory + bench.inputs * one
    return ours / (weights + (length + bench.inputs) * one)


def _llama_rows() -> list[Row]:
    """Count LLaMA2-7B's bytes at |K| 4,064, which is its window less |x| 32."""
    seven = Bench(llama2_7b())
    model = seven.model("reader")
    model.bank.to(torch.bfloat16)
    least, length = _least_bytes(seven, model, 4064), 4064
    title = f"generated token, reader, all, |K| {length}, against D(K,x) cached, LLaMA2-7B's shape"
    return [Row(title, 0.6, None, least, note="bytes read alone, one row; seconds not measured")]
