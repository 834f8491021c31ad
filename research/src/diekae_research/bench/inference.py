"""One pass over x with prepared knowledge, against D(x), and against D(K, x) behind a cached prefix."""

from __future__ import annotations

from typing import Any

import torch

from diekae.inject.attached import Attached
from diekae.inject.cache import forked
from diekae.knowledge import PreparedKnowledge
from diekae.model import DiekaeModel
from diekae.run.timing import TimedCall, Times
from diekae_research.bench import floor
from diekae_research.bench.llama import llama2_7b, llama2_7b_bank
from diekae_research.bench.setting import Bench, Comparison, against_cached_prefix, static_cache

BARE_AIMS = (("token", 128, 1.15), ("token", 1024, 1.15), ("reader", 1024, 1.20))
"""Aims against D(x) of the banks that are not ours: name, |K|, aim."""
BARE_AIM, CACHED_AIM = 1.04, 1.00
"""Aims of our banks: against D(x) at |K| 128, and against a cached prefix at every |K|."""
LLAMA_AIMS = (
    ("token", 128, 1.05),
    ("token", 1024, 1.05),
    ("reader", 1024, 1.10),
    ("exact", 128, BARE_AIM),
    ("attention", 128, BARE_AIM),
)
"""Aims against D(x) with LLaMA2-7B's shape: name, |K|, aim."""
STATIC_LENGTHS = (128, 1024, 4096)
"""|K| at which our banks are compared with a cache of fixed size too."""


@torch.no_grad()
def measure(bench: Bench) -> dict[str, Any]:
    """Measure the rows "pass over x"."""
    lengths = bench.fitting_lengths()
    times = {str(length): bench.seconds(f"pass, |K| {length}", ways(bench, length)) for length in lengths}
    counts = {str(length): _operations(bench, length) for length in lengths}
    return {
        "rows": [*_compare(bench, times, counts), *_count_llama(bench.inputs)],
        "seconds": times,
        "operations": counts,
    }


def ways(bench: Bench, length: int) -> dict[str, TimedCall]:
    """Return the passes of D(x), of D(K, x) behind a cached prefix, and of every bank."""
    ids, question, prefix = bench.ids(bench.inputs), bench.question(), bench.prefix(length)

    def read(cache: Any) -> object:
        return bench.decoder(input_ids=ids, cache=cache, use_cache=True, logits_to_keep=1)

    # A pass adds columns to its cache. So each round gets a new copy, made outside the measured time.
    passes: dict[str, Any] = {
        "bare": bench.bare(question),
        "prompted_cached": (lambda: forked(prefix), read),
    }
    if bench.has_static_cache:
        passes["prompted_static"] = (lambda: static_cache(bench.decoder, prefix, bench.inputs), read)
    for name in bench.names:
        passes[name] = _bank_way(bench, bench.model(name), bench.prepared(bench.model(name), length))
    return passes


def _bank_way(bench: Bench, model: DiekaeModel, prepared: PreparedKnowledge) -> Any:
    """Return the pass over x as :meth:`DiekaeModel.generate` makes it: without x's own anchor where nothing sees it."""
    question = bench.question()

    def read() -> object:
        cache = model.unseen_anchor([prepared], question)
        ids = question if cache is None else question[:, len(bench.anchor) :]
        with model.call_context(prepared, question):
            return bench.decoder(input_ids=ids, cache=cache, use_cache=True, logits_to_keep=1)

    return read


def _operations(bench: Bench, length: int) -> dict[str, int]:
    """Count the operations of one pass of each way."""
    anchor = len(bench.anchor)
    return {
        "bare": floor.decoder_pass(bench.decoder, anchor + bench.inputs),
        "prompted_cached": floor.decoder_pass(bench.decoder, bench.inputs, anchor + length),
        **{name: _bank_operations(bench.model(name).attached, bench.inputs, length, anchor) for name in bench.names},
    }


def _bank_operations(attached: Attached, inputs: int, length: int, anchor: int = 1) -> int:
    """Count the operations of one pass with a bank; where the decoder's attention reads K, x's anchor is not read."""
    columns, cached = (inputs, anchor) if attached.by_attention else (anchor + inputs, 0)
    return floor.decoder_pass(attached.decoder, columns, cached) + floor.bank_pass(attached, columns, length, anchor)


def _compare(bench: Bench, times: dict[str, Times], counts: dict[str, dict[str, int]]) -> list[Comparison]:
    """Compare with D(x) where there is an aim, and our banks with a cached prefix at every |K|."""
    rows = []
    note = f"|x| {bench.inputs}; by operations"
    for name, length, aim in (*BARE_AIMS, *((name, 128, BARE_AIM) for name in bench.ours)):
        key = str(length)
        if name in bench.names and key in times:
            title = f"pass over x, {name}, |K| {length}, against D(x)"
            least = counts[key][name] / counts[key]["bare"]
            rows.append(Comparison(title, aim, times[key].ratio(name, "bare"), least, note=note))
    for name in bench.ours:
        for key, seconds in times.items():
            title = f"pass over x, {name}, |K| {key}, against a cached prefix"
            least = counts[key][name] / counts[key]["prompted_cached"]
            static = int(key) in STATIC_LENGTHS
            rows += against_cached_prefix(
                bench, title, seconds, name, aim=CACHED_AIM, floor=least, note=note, static=static
            )
    return rows


def _count_llama(inputs: int) -> list[Comparison]:
    """Count operations with LLaMA2-7B's shape. Seconds would need a GPU that holds it."""
    decoder = llama2_7b()
    bare = floor.decoder_pass(decoder, 1 + inputs)
    rows = []
    for name, length, aim in LLAMA_AIMS:
        least = _bank_operations(llama2_7b_bank(decoder, name), inputs, length) / bare
        title = f"pass over x, {name}, |K| {length}, against D(x), LLaMA2-7B's shape"
        rows.append(Comparison(title, aim, None, least, note=f"|x| {inputs}; operations only, seconds not measured"))
    return rows
