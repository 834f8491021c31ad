"""What knowledge costs: seconds as ratios within one run, operations and bytes. Each benchmark is one file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diekae_research.bench import decode, inference, memory, prepare, train
from diekae_research.bench.setting import BANKS, USER_BANK, Bench
from diekae_research.provenance import name_of

__all__ = ["BENCHMARKS", "Bench", "run_benchmark"]
BENCHMARKS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "inference": inference.measure,
    "decode": decode.measure,
    "prepare": prepare.measure,
    "train": train.measure,
    "memory": memory.measure,
}
"""Each returns its ``rows``, a list of :class:`~diekae_research.bench.setting.Comparison`, and further JSON values."""


def run_benchmark(name: str, bench: Bench) -> dict[str, Any]:
    """Run one of `BENCHMARKS`; return its settings and results as JSON values."""
    decoder = bench.decoder
    result = BENCHMARKS[name](bench)
    return {
        "benchmark": name,
        "decoder": str(decoder.config.name_or_path).rpartition("/")[2] or type(decoder).__name__,
        "dtype": name_of(decoder.dtype),
        "banks": BANKS if bench.bank is None else {**BANKS, USER_BANK: bench.model(USER_BANK).config.to_dict()},
        "anchor": len(bench.anchor),
        "inputs": bench.inputs,
        "rounds": bench.rounds,
        "seed": bench.seed,
        **result,
        "rows": [row.to_dict() for row in result["rows"]],
    }
