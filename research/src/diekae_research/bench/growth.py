"""How the cost of a pass grows: with |K|, |x|, layers, batch and number of documents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from diekae.run.timing import TimedCall
from diekae_research.bench.setting import Bench

POINTS: dict[str, tuple[int, ...]] = {
    "inputs": (8, 16, 32, 64, 128, 256),
    "layers": (1, 2, 5, 10, 15, 30),
    "batch": (1, 2, 4, 8),
    "documents": (1, 2, 4, 8, 16),
}
"""Where each curve is measured. The points of |K| are the bench's lengths."""
KNOWLEDGE = 256
"""|K| of each document in these curves."""
BANK = "attention"
"""The bank that is measured."""


def measure_growth(bench: Bench) -> dict[str, Any]:
    """Measure how the pass of a bank grows with everything but |K|."""
    model = bench.model(BANK)
    depth = int(bench.decoder.config.get_text_config(decoder=True).num_hidden_layers)
    prepared = bench.prepared(model, KNOWLEDGE)

    def ways(ids: torch.Tensor, knowledge: Any = prepared, reader: Any = model) -> dict[str, TimedCall]:
        return {
            "bare": bench.bare(ids),
            BANK: lambda: reader(ids, knowledge=knowledge, use_cache=True, logits_to_keep=1),
        }

    def last_layers(count: int) -> dict[str, TimedCall]:
        reader = bench.model(BANK, layers=tuple(range(depth - count, depth)))
        return ways(bench.question(), bench.prepared(reader, KNOWLEDGE), reader)

    ways_at: dict[str, Callable[[int], dict[str, TimedCall]]] = {
        "inputs": lambda n: ways(bench.question(n)),
        "layers": last_layers,
        "batch": lambda n: ways(bench.question(rows=n), [prepared] * n),
        "documents": lambda n: ways(bench.question(), bench.prepared(model, KNOWLEDGE, copies=n)),
    }
    curves = {}
    for name, make in ways_at.items():
        points = [point for point in POINTS[name] if name != "layers" or point <= depth]
        times = [bench.seconds(f"{name} {point}", make(point)) for point in points]
        curves[name] = curve(points, {way: [seconds[way] for seconds in times] for way in times[0]})
    return curves


def knowledge_curve(by_length: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Return the curve over |K| of seconds by |K| and way."""
    lengths = sorted(by_length, key=int)
    ways = by_length[lengths[0]] if lengths else {}
    return curve(list(map(int, lengths)), {way: [by_length[length][way] for length in lengths] for way in ways})


def curve(points: Sequence[int], ways: Mapping[str, list[float]]) -> dict[str, Any]:
    """Return a curve with, for each way, the exponent p of seconds ~ pointsᵖ, and that of the share it adds to D(x)."""
    bare = ways.get("bare")
    added = {
        name: exponent(points, [value / base - 1 for value, base in zip(values, bare, strict=True)])
        for name, values in ways.items()
        if bare is not None and name != "bare"
    }
    exponents = {name: exponent(points, values) for name, values in ways.items()}
    return {"points": list(points), "seconds": ways, "exponent": exponents, "exponent_added": added}


def exponent(points: Sequence[int], values: Sequence[float]) -> float | None:
    """Return the least-squares slope of log values over log points; None if a value is not positive."""
    if len(points) < 2 or min(values) <= 0:
        return None
    x, y = torch.tensor(points).double().log(), torch.tensor(values).double().log()
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / x.square().sum())
