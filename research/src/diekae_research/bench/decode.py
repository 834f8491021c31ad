"""A generated token: with prepared knowledge, against D(x), and against D(K, x) behind a cached prefix."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from transformers import PreTrainedModel

from diekae.inject.attached import Attached
from diekae.knowledge import PreparedKnowledge
from diekae.model import DiekaeModel
from diekae.run.score import forked
from diekae.run.timing import Times
from diekae_research.bench import floor
from diekae_research.bench.inference import curve
from diekae_research.bench.setting import Bench, Row, beside_llama2_7b, llama2_7b, static_cache

TOKENS = 8
"""Tokens that are generated in a row, of which the mean counts."""
AIMS = {128: 1.00, 1024: 0.95, 4096: 0.85}
"""Aims of ours against a cached prefix, by |K|."""


@torch.no_grad()
def measure(bench: Bench) -> dict[str, Any]:
    """Measure the rows "a generated token"."""
    times: dict[str, Times] = {}
    for length in bench.fitting():
        times[str(length)] = bench.seconds(f"generated token, |K| {length}", ways(bench, length))
    seconds = {key: {name: value / TOKENS for name, value in found.items()} for key, found in times.items()}
    rows = [row for length in AIMS if str(length) in times for row in _rows(bench, length, times[str(length)])]
    points = sorted(seconds, key=int)
    by_way = {name: [seconds[point][name] for point in points] for name in seconds[points[0]]} if points else {}
    return {
        "rows": [row.to_dict() for row in rows + _llama_rows(bench.inputs)],
        "tokens": TOKENS,
        "seconds": seconds,
        "curves": {"knowledge": curve([int(point) for point in points], by_way)},
    }


def ways(bench: Bench, length: int) -> dict[str, Any]:
    """Return the ways; all have read the same question, untimed, and nothing is kept of what is generated."""
    bare, prefix = bench.cache(len(bench.anchor) + bench.inputs), bench.prefix(length, bench.inputs)

    def behind(own: Any) -> None:
        generate(bench, own)

    found: dict[str, Any] = {
        "bare": ((lambda: forked(bare)), behind),
        "prompted_cached": ((lambda: forked(prefix)), behind),
    }
    if bench.static:
        found["prompted_static"] = ((lambda: static_cache(bench.decoder, prefix, TOKENS)), behind)
    for name in bench.names:
        model = bench.model(name)
        found[name] = _ours(bench, model, bench.prepared(model, length))
    return found


def _rows(bench: Bench, length: int, times: Times) -> list[Row]:
    rows = []
    if "token" in times:
        ratio = round(times.ratio("token", "bare"), 2)
        title = f"generated token, token, |K| {length}, against D(x)"
        rows.append(Row(title, 1.0, ratio, 1.0, note="prompt scope: the encoders do not run; to two digits"))
    note = f"mean of {TOKENS} tokens; floor by bytes read"
    for name in (name for name in bench.names if name != "token"):
        attached = bench.model(name).attached
        least = _least_bytes(attached, bench.inputs, length, len(bench.anchor))
        title = f"generated token, {name}, |K| {length}, against a cached prefix"
        aim = AIMS[length] if name in bench.ours else None
        growing = times.ratio(name, "prompted_cached")
        rows.append(Row(title, aim, growing, least, note=f"{note}; the cache that grows, as `generate`'s"))
        if bench.static:
            static = times.ratio(name, "prompted_static")
            rows.append(Row(f"{title} of fixed size", None, static, least, note=f"{note}; `StaticCache`"))
    return rows


def generate(bench: Bench, cache: Any) -> None:
    """Generate from a fixed token, as greedy decoding would, but for the choice of it."""
    token = bench.ids(1)
    for _ in range(TOKENS):
        bench.decoder(input_ids=token, past_key_values=cache, use_cache=True, logits_to_keep=1)


def _ours(bench: Bench, model: DiekaeModel, prepared: PreparedKnowledge) -> Any:
    """Read x as :meth:`DiekaeModel.generate` does, untimed, and generate behind it."""
    ids = bench.question()

    def make() -> tuple[ExitStack, Any]:
        with ExitStack() as exits:
            exits.enter_context(model.behind(prepared, ids))
            out = bench.decoder(input_ids=ids, use_cache=True, logits_to_keep=1)
            return exits.pop_all(), out.past_key_values

    def run(given: tuple[ExitStack, Any]) -> None:
        exits, cache = given
        with exits:
            generate(bench, cache)

    return make, run


def _least_bytes(attached: Attached, inputs: int, length: int, anchor: int = 1) -> float:
    """Return the bytes that a token must read with ours, against those with K's keys and values."""
    decoder: PreTrainedModel = attached.decoder
    weights, one = floor.decode_bytes(decoder), floor.cache_bytes(decoder, 1)
    ours = weights + floor.answer_bytes(attached) + length * floor.slot_bytes(attached) + (anchor + inputs) * one
    return ours / (weights + (anchor + length + inputs) * one)


def _llama_rows(inputs: int) -> list[Row]:
    """Count LLaMA2-7B's bytes at |K| 4,063, which is its window less |x| 32 and the anchor."""
    decoder = llama2_7b()
    length = decoder.config.max_position_embeddings - 1 - inputs
    rows = []
    for name in ("reader", "exact", "attention"):
        least = _least_bytes(beside_llama2_7b(decoder, name), inputs, length)
        title = f"generated token, {name}, |K| {length}, against a cached prefix, LLaMA2-7B's shape"
        rows.append(Row(title, None, None, least, note="bytes read alone, one row; seconds not measured"))
    return rows
