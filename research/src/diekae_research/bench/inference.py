"""One pass over x with prepared knowledge, against D(x), and against D(K, x) behind a cached prefix.

And how its cost grows: with |K|, |x|, layers, batch and number of documents.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch

from diekae.knowledge import PreparedKnowledge
from diekae.model import DiekaeModel
from diekae.run.score import forked
from diekae.run.timing import Times, Way
from diekae_research.bench import floor
from diekae_research.bench.setting import Bench, Row, beside_llama2_7b, llama2_7b, static_cache

GROWTH: dict[str, tuple[int, ...]] = {
    "inputs": (8, 16, 32, 64, 128, 256),
    "layers": (1, 2, 5, 10, 15, 30),
    "batch": (1, 2, 4, 8),
    "documents": (1, 2, 4, 8, 16),
}
"""Where a curve is measured, besides |K|."""
KNOWN = 256
"""|K| of those curves; of one document."""
GROWING = "attention"
"""The bank whose curves they are."""
BARE_AIMS = (("token", 128, 1.15), ("token", 1024, 1.15), ("reader", 1024, 1.20))
"""Aims against D(x) of the banks that are not ours: name, |K|, aim."""
BARE_AIM, CACHED_AIM = 1.04, 1.00
"""Aims of ours: against D(x) at |K| 128, and against a cached prefix at every |K|."""
STATIC_LENGTHS = (128, 1024, 4096)
"""|K| at which ours is compared with a cache of fixed size too."""


@torch.no_grad()
def measure(bench: Bench) -> dict[str, Any]:
    """Measure the rows "one pass over x with prepared knowledge", and the curves."""
    by_length = {str(length): bench.seconds(f"pass, |K| {length}", ways(bench, length)) for length in bench.fitting()}
    counted = {str(length): _operations(bench, length) for length in bench.fitting()}
    rows = _rows(bench, by_length, counted)
    return {
        "rows": [row.to_dict() for row in rows + _llama_rows(bench.inputs)],
        "seconds": by_length,
        "ratios": {key: {name: times.ratio(name, "bare") for name in times} for key, times in by_length.items()},
        "operations": counted,
        "curves": {"knowledge": _knowledge_curve(by_length), **(_growth(bench) if bench.curves else {})},
    }


def ways(bench: Bench, length: int) -> dict[str, Way]:
    """Return D(x), D(K, x) behind a cached prefix, and every bank that is measured."""
    ids, prefix = bench.ids(bench.inputs), bench.prefix(length)

    def behind(own: Any) -> object:
        return bench.decoder(input_ids=ids, past_key_values=own, use_cache=True, logits_to_keep=1)

    # What a pass leaves in a cache is undone before the next one, untimed; one of fixed size is filled anew.
    found: dict[str, Any] = {
        "bare": bench.bare(bench.question()),
        "prompted_cached": ((lambda: forked(prefix)), behind),
    }
    if bench.static:
        found["prompted_static"] = ((lambda: static_cache(bench.decoder, prefix, bench.inputs)), behind)
    for name in bench.names:
        model = bench.model(name)
        found[name] = _ours(bench, model, bench.prepared(model, length))
    return found


def _ours(
    bench: Bench,
    model: DiekaeModel,
    prepared: PreparedKnowledge | list[PreparedKnowledge],
    inputs: int | None = None,
    rows: int = 1,
) -> Way:
    ids = bench.question(inputs, rows)
    return lambda: model(ids, knowledge=prepared, use_cache=True, logits_to_keep=1)


def _operations(bench: Bench, length: int) -> dict[str, int]:
    """Count one pass of each way."""
    columns = len(bench.anchor) + bench.inputs
    bare = floor.decoder_pass(bench.decoder, columns)
    added = {
        name: floor.bank_pass(bench.model(name).attached, columns, length, len(bench.anchor)) for name in bench.names
    }
    return {
        "bare": bare,
        "prompted_cached": floor.decoder_pass(bench.decoder, bench.inputs, len(bench.anchor) + length),
        **{name: bare + more for name, more in added.items()},
    }


def _rows(bench: Bench, by_length: dict[str, Times], counted: dict[str, dict[str, int]]) -> list[Row]:
    """Compare with D(x) where there is an aim, and ours with a cached prefix everywhere."""
    rows = []
    note = f"|x| {bench.inputs}; by operations"
    for name, length, aim in (*BARE_AIMS, *((name, 128, BARE_AIM) for name in bench.ours)):
        if name in bench.names and (times := by_length.get(str(length))) is not None:
            least = counted[str(length)][name] / counted[str(length)]["bare"]
            title = f"pass over x, {name}, |K| {length}, against D(x)"
            rows.append(Row(title, aim, times.ratio(name, "bare"), least, note=note))
    for name, (known, times) in itertools.product(bench.ours, by_length.items()):
        title = f"pass over x, {name}, |K| {known}, against a cached prefix"
        least = counted[known][name] / counted[known]["prompted_cached"]
        growing = times.ratio(name, "prompted_cached")
        rows.append(Row(title, CACHED_AIM, growing, least, note=f"{note}; the cache that grows, as `generate`'s"))
        if bench.static and int(known) in STATIC_LENGTHS:
            static = times.ratio(name, "prompted_static")
            rows.append(Row(f"{title} of fixed size", None, static, least, note=f"{note}; `StaticCache`"))
    return rows


def _llama_rows(inputs: int) -> list[Row]:
    """Count LLaMA2-7B's shape: operations alone, for seconds need a GPU that holds it."""
    decoder = llama2_7b()
    bare = floor.decoder_pass(decoder, 1 + inputs)
    rows = []
    for name, length, aim in (
        ("token", 128, 1.05),
        ("token", 1024, 1.05),
        ("reader", 1024, 1.10),
        ("exact", 128, BARE_AIM),
        ("attention", 128, BARE_AIM),
    ):
        least = (bare + floor.bank_pass(beside_llama2_7b(decoder, name), 1 + inputs, length)) / bare
        title = f"pass over x, {name}, |K| {length}, against D(x), LLaMA2-7B's shape"
        rows.append(Row(title, aim, None, least, note=f"|x| {inputs}; operations alone, seconds not measured"))
    return rows


def _knowledge_curve(by_length: dict[str, Times]) -> dict[str, Any]:
    points = sorted(by_length, key=int)
    by_way = {name: [by_length[point][name] for point in points] for name in by_length[points[0]]} if points else {}
    return curve([int(point) for point in points], by_way)


def _growth(bench: Bench) -> dict[str, Any]:
    """Measure how the pass of a bank grows with everything but |K|."""
    model = bench.model(GROWING)
    depth = int(bench.decoder.config.get_text_config(decoder=True).num_hidden_layers)
    prepared = bench.prepared(model, KNOWN)

    def deep(count: int) -> Way:
        one = bench.model(GROWING, layers=tuple(range(depth - count, depth)))
        return _ours(bench, one, bench.prepared(one, KNOWN))

    makers: dict[str, Callable[[int], dict[str, Way]]] = {
        "inputs": lambda n: {"bare": bench.bare(bench.question(n)), GROWING: _ours(bench, model, prepared, n)},
        "layers": lambda n: {"bare": bench.bare(bench.question()), GROWING: deep(n)},
        "batch": lambda n: {
            "bare": bench.bare(bench.question(rows=n)),
            GROWING: _ours(bench, model, [prepared] * n, rows=n),
        },
        "documents": lambda n: {
            "bare": bench.bare(bench.question()),
            GROWING: _ours(bench, model, bench.prepared(model, KNOWN, copies=n)),
        },
    }
    curves = {}
    for name, make in makers.items():
        points = [point for point in GROWTH[name] if name != "layers" or point <= depth]
        times = [bench.seconds(f"{name} {point}", make(point)) for point in points]
        curves[name] = curve(points, {way: [one[way] for one in times] for way in times[0]})
    return curves


def curve(points: Sequence[int], ways: dict[str, list[float]]) -> dict[str, Any]:
    """Return a curve with, for each way, the exponent p of seconds ~ pointsᵖ, and that of the share it adds to D(x)."""
    exponents = {name: exponent(points, values) for name, values in ways.items()}
    bare = ways.get("bare")
    added = {
        name: exponent(points, [value / base - 1 for value, base in zip(values, bare, strict=True)])
        for name, values in ways.items()
        if bare is not None and name != "bare"
    }
    return {"points": list(points), "seconds": ways, "exponent": exponents, "exponent_added": added}


def exponent(points: Sequence[int], values: Sequence[float]) -> float | None:
    """Return the least-squares slope of log values over log points; None where a value is not positive."""
    if len(points) < 2 or min(values) <= 0:
        return None
    x, y = torch.tensor(points).double().log(), torch.tensor(values).double().log()
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / x.square().sum())
