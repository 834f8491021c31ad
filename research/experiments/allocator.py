"""Seconds of a training step with glibc's allocator as it is, and told to keep what was freed.

    python research/experiments/allocator.py --json research/results/allocator.json

Each way runs in a process of its own, twice in turn; random states of the size that SmolLM2 gives (width 576, ten
readers, sixteen examples, the longest with 60 to 200 tokens of K and 20 to 60 of x: another length each step, as in
training).
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

STEPS, WARMUP = 40, 10


def measure(keep: bool) -> dict[str, float]:
    """Return the mean step, and how much of the processor's time went to the system."""
    import torch

    from diekae.allocator import keep_freed_memory
    from diekae.encoders.bank import Bank

    if keep and not keep_freed_memory():
        raise SystemExit("the C library is not glibc, or a MALLOC_ variable is set: nothing to compare.")
    torch.manual_seed(0)
    bank = Bank("reader", {}, list(range(10)), 576, 576)
    optimizer = torch.optim.AdamW(bank.parameters(), 1e-3)
    draw, seconds = random.Random(0), []
    for step in range(STEPS + WARMUP):
        lengths = draw.randint(60, 200), draw.randint(20, 60)
        known, seen = (torch.randn(10, 16, length, 576) for length in lengths)
        masks = [torch.ones(16, length, dtype=torch.bool) for length in lengths]
        if step == WARMUP:
            before = resource.getrusage(resource.RUSAGE_SELF)
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16):
            found = bank.encoder(bank.prepare(known, masks[0]), seen, masks[1]).difference
        found.float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - start)
    after = resource.getrusage(resource.RUSAGE_SELF)
    system, user = after.ru_stime - before.ru_stime, after.ru_utime - before.ru_utime
    return {"step_seconds": statistics.fmean(seconds[WARMUP:]), "system_share": system / (system + user)}


def main() -> None:
    """Run both ways."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--way", choices=("default", "keep"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        print(json.dumps(measure(arguments.way == "keep")))
        return
    from diekae.provenance import write_json

    runs: dict[str, list[dict[str, float]]] = {"default": [], "keep": []}
    for way in ("default", "keep", "default", "keep"):
        done = subprocess.run([sys.executable, __file__, "--way", way], capture_output=True, text=True, check=True)
        runs[way].append(json.loads(done.stdout.splitlines()[-1]))
    ratio = min(r["step_seconds"] for r in runs["keep"]) / min(r["step_seconds"] for r in runs["default"])
    result = {"runs": runs, "keep_over_default": ratio}
    print(json.dumps(result, indent=2))
    if arguments.json:
        write_json(arguments.json, result)


if __name__ == "__main__":
    main()
