"""How much time does the head take of the last columns of several rows, as a slice and as a copy?

    python research/experiments/contiguous_head.py --json research/results/speed/contiguous-head.json

A decoder's own ``generate`` gives its head a slice. If the weights take no gradients, as in training of a bank, PyTorch
then multiplies row by row, and in bf16 it copies the weights for each.
The sizes are those of SmolLM2-135M and Qwen2.5-0.5B, the weights random; one thread, the best of several runs.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from torch import nn

from diekae.provenance import name_of, write_json

SIZES = {"SmolLM2-135M": (49_152, 576), "Qwen2.5-0.5B": (151_936, 896)}
"""Vocabulary and width."""
COLUMNS, RUNS = 60, 3


@torch.no_grad()
def measure(vocabulary: int, width: int, rows: int, dtype: torch.dtype) -> dict[str, float]:
    """Return the seconds of the head in both ways."""
    head = nn.Linear(width, vocabulary, bias=False).to(dtype).requires_grad_(False)
    states = torch.randn(rows, COLUMNS, width).to(dtype)
    calls = {
        "slice": lambda: head(states[:, -1:]),
        "copy": lambda: head(states[:, -1:].clone(memory_format=torch.contiguous_format)),
    }
    seconds = {name: float("inf") for name in calls}
    for _ in range(RUNS):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    return {**seconds, "ratio": seconds["slice"] / seconds["copy"]}


def main() -> None:
    """Measure all sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the figures go")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result = {
        f"{name}, {rows} rows, {name_of(dtype)}": measure(*SIZES[name], rows, dtype)
        for name in SIZES
        for rows in (1, 8)
        for dtype in (torch.float32, torch.bfloat16)
    }
    print(json.dumps(result, indent=2))
    if arguments.json:
        write_json(arguments.json, result)


if __name__ == "__main__":
    main()
