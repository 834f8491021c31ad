"""Print the tables of measured banks of README.md and docs/research.md from the JSON files beside this script.

Run it with ``python research/summaries/summary.py``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

RESULTS = Path(__file__).parents[1] / "results"
RUNS = ("smollm2", "dream-reader", "dream-token", "dream-paper")
"""The README's."""
EARLIER = ("dream", "dream-3-epochs", "dream-token", "dream-paper", "mixture")
"""What earlier code measured: docs/research.md's."""


def main() -> None:
    """Print the tables."""
    show(RESULTS, RUNS)
    print()
    show(RESULTS / "history", EARLIER)


def show(folder: Path, runs: Sequence[str]) -> None:
    """Print one row a data set of every run that is there."""
    print("| run | encoder | data | n | D(x) | D(K,x) | ours | recovered | grounded |")
    print("|---|---|---|---|---|---|---|---|---|")
    for run in runs:
        path = folder / f"{run}.json"
        if not path.is_file():
            continue
        result = json.loads(path.read_text())
        for name, found in result["sets"].items():
            nll = " | ".join(f"{found['nll'][key]:.2f}" for key in ("bare", "prompted", "ours"))
            shares = " | ".join("–" if found[key] is None else f"{found[key]:.2f}" for key in ("recovered", "grounded"))
            print(f"| `{run}` | {result['recipe']['diekae']['encoder']} | {name} | {found['n']} | {nll} | {shares} |")


if __name__ == "__main__":
    main()
