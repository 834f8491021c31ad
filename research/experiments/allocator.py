"""How much time does a training step save when glibc's allocator keeps freed memory?

    python research/experiments/allocator.py --json research/results/allocator.json

Each setting runs twice, in turn, in a process of its own. The states are random and as large as SmolLM2's: width 576,
ten readers, sixteen examples, 60 to 200 tokens of K and 20 to 60 of x. Each step has other lengths, as in training.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from diekae.allocator import keep_freed_memory
from diekae.encoders.bank import Bank
from diekae.provenance import write_json

STEPS, WARMUP = 40, 10


def measure(keep: bool) -> dict[str, float]:
    """Return the mean seconds of a step, and the system's share of the processor time."""
    if keep and not keep_freed_memory():
        raise SystemExit("the C library is not glibc, or a MALLOC_ variable is set: nothing to compare.")
    torch.manual_seed(0)
    bank = Bank("reader", {}, list(range(10)), 576, 576)
    optimizer = torch.optim.AdamW(bank.parameters(), 1e-3)
    rng, seconds = random.Random(0), []
    for step in range(STEPS + WARMUP):
        lengths = rng.randint(60, 200), rng.randint(20, 60)
        knowledge, inputs = (torch.randn(10, 16, length, 576) for length in lengths)
        knowledge_mask, input_mask = (torch.ones(16, length, dtype=torch.bool) for length in lengths)
        if step == WARMUP:
            before = resource.getrusage(resource.RUSAGE_SELF)
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16):
            output = bank.encoder(bank.prepare(knowledge, knowledge_mask), inputs, input_mask).difference
        output.float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - start)
    after = resource.getrusage(resource.RUSAGE_SELF)
    system, user = after.ru_stime - before.ru_stime, after.ru_utime - before.ru_utime
    return {"step_seconds": statistics.fmean(seconds[WARMUP:]), "system_share": system / (system + user)}


def main() -> None:
    """Run both settings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--way", choices=("default", "keep"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        print(json.dumps(measure(arguments.way == "keep")))
        return
    runs: dict[str, list[dict[str, float]]] = {"default": [], "keep": []}
    for way in ("default", "keep", "default", "keep"):
        process = subprocess.run([sys.executable, __file__, "--way", way], capture_output=True, text=True, check=True)
        runs[way].append(json.loads(process.stdout.splitlines()[-1]))
    best = {way: min(run["step_seconds"] for run in both) for way, both in runs.items()}
    result = {"runs": runs, "keep_over_default": best["keep"] / best["default"]}
    print(json.dumps(result, indent=2))
    if arguments.json:
        write_json(arguments.json, result)


if __name__ == "__main__":
    main()
