"""One pass over x with prepared knowledge, against D(x), and against D(K, x) behind a cached prefix.

And how its cost grows: with |K|, |x|, layers, batch and number of documents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from diekae.bench import floor
from diekae.bench.setting import Bench, Row, copied, llama2_7b
from diekae.memory import Memory
from diekae.model import DiekaeModel
from diekae.run.timing import Times, Way

GROWTH: dict[str, tuple[int, ...]] = {
    "inputs": (8, 16, 32, 64, 128, 256),
    "layers": (1, 2, 5, 10, 15, 30),
    "batch": (1, 2, 4, 8),
    "documents": (1, 2, 4, 8, 16),
}
"""Where a curve is measured, besides |K|."""
KNOWN = 256
"""|K| of those curves; of one document."""


@torch.no_grad()
def measure(bench: Bench) -> dict[str, Any]:
    """Measure the rows "one pass over x with prepared knowledge", and the curves."""
    rows: list[Row] = []
    by_length: dict[str, Times] = {}
    for length in bench.fitting():
        ways = {"bare": bench.bare(bench.ids(bench.inputs)), "prompted_cached": _cached(bench, length)}
        for name in ("token", "reader", "attention"):
            model = bench.model(name)
            ways[name] = _ours(bench, model, bench.memory(model, length))
        by_length[str(length)] = bench.seconds(f"pass, |K| {length}", ways)
    counted = {str(length): _operations(bench, length) for length in bench.fitting()}
    for name, length, aim in (("token", 128, 1.15), ("token", 1024, 1.15), ("reader", 1024, 1.20)):
        if (found := by_length.get(str(length))) is not None:
            least = counted[str(length)][name] / counted[str(length)]["bare"]
            title = f"pass over x, {name}, |K| {length}, against D(x)"
            rows.append(Row(title, aim, found.ratio(name, "bare"), least, note=f"|x| {bench.inputs}; by operations"))
    return {
        "rows": [row.to_dict() for row in rows + _llama_rows(bench.inputs)],
        "seconds": by_length,
        "ratios": {key: {name: found.ratio(name, "bare") for name in found} for key, found in by_length.items()},
        "operations": counted,
        "curves": {"knowledge": _knowledge_curve(by_length), **(_growth(bench) if bench.curves else {})},
    }


def _ours(
    bench: Bench, model: DiekaeModel, memory: Memory | list[Memory], inputs: int | None = None, rows: int = 1
) -> Way:
    ids = bench.ids(inputs or bench.inputs, rows)
    return lambda: model(ids, knowledge=memory, use_cache=False, logits_to_keep=1)


def _cached(bench: Bench, length: int) -> Any:
    """D(K, x) behind K's cached keys and values, whose growth is undone before each pass and not timed."""
    ids, cache = bench.ids(bench.inputs), bench.cache(length + 1)

    def run(own: Any) -> object:
        return bench.decoder(input_ids=ids, past_key_values=own, use_cache=True, logits_to_keep=1)

    return (lambda: copied(cache)), run


def _operations(bench: Bench, length: int) -> dict[str, int]:
    """Count one pass of each way."""
    bare = floor.decoder_pass(bench.decoder, bench.inputs)
    return {
        "bare": bare,
        "prompted_cached": floor.decoder_pass(bench.decoder, bench.inputs, length + 1),
        **{name: bare + floor.bank_pass(bench.model(name), bench.inputs, length) for name in ("token", "reader")},
    }


def _llama_rows(inputs: int) -> list[Row]:
    """Count LLaMA2-7B's shape: operations alone, for seconds need a GPU that holds it."""
    seven = Bench(llama2_7b(), inputs=inputs)
    bare = floor.decoder_pass(seven.decoder, inputs)
    rows = []
    for name, length, aim in (("token", 128, 1.05), ("token", 1024, 1.05), ("reader", 1024, 1.10)):
        least = (bare + floor.bank_pass(seven.model(name), inputs, length)) / bare
        title = f"pass over x, {name}, |K| {length}, against D(x), LLaMA2-7B's shape"
        rows.append(Row(title, aim, None, least, note=f"|x| {inputs}; operations alone, seconds not measured"))
    return rows


def _knowledge_curve(by_length: dict[str, Times]) -> dict[str, Any]:
    points = sorted(by_length, key=int)
    ways = {name: [by_length[point][name] for point in points] for name in by_length[points[0]]} if points else {}
    return curve([int(point) for point in points], ways)


def _growth(bench: Bench) -> dict[str, Any]:
    """Measure how the pass of the reader grows with everything but |K|."""
    model = bench.model("reader")
    depth = int(bench.decoder.config.get_text_config(decoder=True).num_hidden_layers)
    memory = bench.memory(model, KNOWN)
    makers: dict[str, Callable[[int], dict[str, Way]]] = {
        "inputs": lambda n: {"bare": bench.bare(bench.ids(n)), "reader": _ours(bench, model, memory, n)},
        "layers": lambda n: {
            "bare": bench.bare(bench.ids(bench.inputs)),
            "reader": (lambda deep: _ours(bench, deep, bench.memory(deep, KNOWN)))(
                bench.model("reader", layers=tuple(range(depth - n, depth)))
            ),
        },
        "batch": lambda n: {
            "bare": bench.bare(bench.ids(bench.inputs, n)),
            "reader": _ours(bench, model, [memory] * n, rows=n),
        },
        "documents": lambda n: {
            "bare": bench.bare(bench.ids(bench.inputs)),
            "reader": _ours(bench, model, bench.memory(model, KNOWN, copies=n)),
        },
    }
    curves = {}
    for name, make in makers.items():
        points = [point for point in GROWTH[name] if name != "layers" or point <= depth]
        found = [bench.seconds(f"{name} {point}", make(point)) for point in points]
        curves[name] = curve(points, {way: [one[way] for one in found] for way in found[0]})
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
