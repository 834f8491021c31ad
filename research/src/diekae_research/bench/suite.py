"""All benchmarks by name, and what is written beside their figures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diekae_research.bench import decode, inference, memory, prepare, train
from diekae_research.bench.setting import BANKS, GIVEN, Bench
from diekae_research.provenance import name_of

BENCHMARKS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "inference": inference.measure,
    "decode": decode.measure,
    "prepare": prepare.measure,
    "train": train.measure,
    "memory": memory.measure,
}
"""What can be measured."""


def run_benchmark(name: str, bench: Bench) -> dict[str, Any]:
    """Measure one benchmark.

    Raises:
        ValueError: It is not known.
    """
    if name not in BENCHMARKS:
        raise ValueError(f"benchmark {name!r} is not known; choose one of {', '.join(BENCHMARKS)}.")
    decoder = bench.decoder
    settings = {
        "benchmark": name,
        "decoder": str(decoder.config.name_or_path).rpartition("/")[2] or type(decoder).__name__,
        "dtype": name_of(decoder.dtype),
        "banks": BANKS if bench.bank is None else {**BANKS, GIVEN: bench.model(GIVEN).config.to_dict()},
        "anchor": len(bench.anchor),
        "inputs": bench.inputs,
        "rounds": bench.rounds,
        "seed": bench.seed,
    }
    return {**settings, **BENCHMARKS[name](bench)}
