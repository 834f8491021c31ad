"""A generated token with prepared knowledge, against D(x), and against D(K, x) behind a cached prefix."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from transformers import DynamicCache

from diekae.inject.attached import Attached
from diekae.inject.cache import forked
from diekae.knowledge import PreparedKnowledge
from diekae.model import DiekaeModel
from diekae.run.timing import Times
from diekae_research.bench import floor
from diekae_research.bench.llama import llama2_7b, llama2_7b_bank
from diekae_research.bench.setting import Bench, Comparison, against_cached_prefix, static_cache

TOKENS = 8
"""Tokens that are generated in a row; their mean is reported."""
AIMS = {128: 1.00, 1024: 0.95, 4096: 0.85}
"""Aims of our banks against a cached prefix, by |K|."""


@torch.no_grad()
def measure(bench: Bench) -> dict[str, Any]:
    """Measure the rows "generated token"."""
    lengths = bench.fitting_lengths()
    times = {length: bench.seconds(f"generated token, |K| {length}", ways(bench, length)) for length in lengths}
    rows = [row for length in AIMS if length in times for row in _compare(bench, length, times[length])]
    seconds = {str(length): {name: value / TOKENS for name, value in times[length].items()} for length in lengths}
    return {
        "rows": [*rows, *_count_llama(bench.inputs)],
        "tokens": TOKENS,
        "seconds": seconds,
    }


def ways(bench: Bench, length: int) -> dict[str, Any]:
    """Return pairs (read x, generate). Only the second is timed, and each starts from a cache of its own."""
    bare = bench.prefix(0, bench.inputs)
    prefix = bench.prefix(length, bench.inputs)

    def run(cache: Any) -> None:
        generate(bench, cache)

    pairs: dict[str, Any] = {
        "bare": (lambda: forked(bare), run),
        "prompted_cached": (lambda: forked(prefix), run),
    }
    if bench.has_static_cache:
        pairs["prompted_static"] = (lambda: static_cache(bench.decoder, prefix, TOKENS), run)
    for name in bench.names:
        model = bench.model(name)
        pairs[name] = _bank_way(bench, model, bench.prepared(model, length))
    return pairs


def generate(bench: Bench, cache: Any) -> None:
    """Generate behind a cache, as greedy decoding does, except that each token is the same fixed one."""
    token = bench.ids(1)
    for _ in range(TOKENS):
        bench.decoder(input_ids=token, cache=cache, use_cache=True, logits_to_keep=1)


def _bank_way(bench: Bench, model: DiekaeModel, prepared: PreparedKnowledge) -> Any:
    """Return a pair that reads x as :meth:`DiekaeModel.generate` does, and generates behind it."""
    ids = bench.question()

    def read() -> tuple[ExitStack, Any]:
        with ExitStack() as exits:
            exits.enter_context(model.call_context(prepared, ids))
            cache = DynamicCache(config=bench.decoder.config)  # given from the start, as `generate` does
            bench.decoder(input_ids=ids, cache=cache, use_cache=True, logits_to_keep=1)
            return exits.pop_all(), cache  # the injection goes on until the tokens are generated

    def run(state: tuple[ExitStack, Any]) -> None:
        exits, cache = state
        with exits:
            generate(bench, cache)

    return read, run


def _compare(bench: Bench, length: int, times: Times) -> list[Comparison]:
    rows = []
    if "token" in times:
        title = f"generated token, token, |K| {length}, against D(x)"
        note = "prompt scope: no encoder runs; rounded to two digits"
        rows.append(Comparison(title, 1.0, round(times.ratio("token", "bare"), 2), 1.0, note=note))
    note = f"mean of {TOKENS} tokens; floor by bytes read"
    for name in bench.names:
        if name == "token":
            continue
        title = f"generated token, {name}, |K| {length}, against a cached prefix"
        least = _least_bytes(bench.model(name).attached, bench.inputs, length, len(bench.anchor))
        aim = AIMS[length] if name in bench.ours else None
        rows += against_cached_prefix(bench, title, times, name, aim=aim, floor=least, note=note, static=True)
    return rows


def _least_bytes(attached: Attached, inputs: int, length: int, anchor: int = 1) -> float:
    """Return the bytes that a token must read with a bank, as a ratio to those with K's keys and values."""
    weights = floor.decode_bytes(attached.decoder)
    column = floor.cache_bytes(attached.decoder, 1)
    bank = floor.answer_bytes(attached) + length * floor.slot_bytes(attached)
    return (weights + bank + (anchor + inputs) * column) / (weights + (anchor + length + inputs) * column)


def _count_llama(inputs: int) -> list[Comparison]:
    """Count bytes with LLaMA2-7B's shape, where K fills its window."""
    decoder = llama2_7b()
    length = decoder.config.max_position_embeddings - 1 - inputs
    rows = []
    for name in ("reader", "exact", "attention"):
        least = _least_bytes(llama2_7b_bank(decoder, name), inputs, length)
        title = f"generated token, {name}, |K| {length}, against a cached prefix, LLaMA2-7B's shape"
        rows.append(Comparison(title, None, None, least, note="bytes read only, one row; seconds not measured"))
    return rows
