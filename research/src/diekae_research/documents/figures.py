"""Figures of the document benchmark, from its answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scipy.stats import binomtest


def summary(rows: Sequence[dict[str, Any]], way: str) -> dict[str, Any]:
    """Return how many answers are right and empty, by kind, with the interval of all right ones, and mean seconds."""
    by_kind: dict[str, dict[str, int]] = {}
    for row in rows:
        if row["kind"] != "unanswerable":
            counts = by_kind.setdefault(row["kind"], {"right": 0, "empty": 0, "n": 0})
            counts["n"] += 1
            counts["right"] += row[way]["right"]
            counts["empty"] += not row[way]["text"]
    right, n = (sum(counts[name] for counts in by_kind.values()) for name in ("right", "n"))
    low, high = binomtest(right, n).proportion_ci(method="wilson")
    seconds = sum(row[way]["seconds"] for row in rows) / len(rows)
    return {"kinds": by_kind, "right": right, "n": n, "interval": [float(low), float(high)], "seconds": seconds}
