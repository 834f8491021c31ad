"""Figures with intervals, from the columns that cells hold: pure.

One resample of a data set serves every method and column, so shares and differences are paired example by example;
several sets are resampled apart and their figures averaged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from diekae.evaluation.metrics import LEAST_GAP
from diekae_research.evaluation.bootstrap import Interval, resample

Table = Mapping[str, Sequence[float]]
"""Numbers of each example of one data set, by name."""


def over_sets(tables: Sequence[Table], figure: Callable[[Mapping[str, Any]], Any], seed: int = 0) -> Interval | None:
    """Return the mean over data sets of a figure of sums, with its bootstrap interval; None without a set."""
    if not tables:
        return None
    arrays = [{name: np.asarray(column, dtype=np.float64) for name, column in table.items()} for table in tables]
    value = float(np.mean([figure({name: column.sum() for name, column in table.items()}) for table in arrays]))
    draws = np.mean([figure(resample(table, seed=seed + n)) for n, table in enumerate(arrays)], axis=0)
    low, high = np.quantile(draws, (0.025, 0.975))
    return Interval(value, float(low), float(high))


def mean_nll(tables: Sequence[Table], column: str = "nll", seed: int = 0) -> Interval | None:
    """Return the mean over sets of a column per target token."""
    return over_sets([t for t in tables if column in t], lambda s: s[column] / s["tokens"], seed)


def recovered(tables: Sequence[Table], seed: int = 0) -> Interval | None:
    """Return the mean share of the knowledge gap that is closed, over sets where the gap is 0.05 nats or more.

    Args:
        tables: Columns ``nll``, ``bare``, ``prompted`` and ``tokens``.
        seed: Decides the resamples.
    """
    return _share(tables, ("bare", "nll"), ("bare", "prompted"), seed)


def grounded(tables: Sequence[Table], seed: int = 0) -> Interval | None:
    """Return the same for what K says: the cost of another example's K, the method's against D's.

    Args:
        tables: Columns ``nll``, ``nll_other``, ``prompted``, ``prompted_other`` and ``tokens``.
        seed: Decides the resamples.
    """
    return _share(tables, ("nll_other", "nll"), ("prompted_other", "prompted"), seed)


def _share(tables: Sequence[Table], part: tuple[str, str], gap: tuple[str, str], seed: int) -> Interval | None:
    def defined(table: Table) -> bool:
        if not {*part, *gap} <= set(table):
            return False
        return (sum(table[gap[0]]) - sum(table[gap[1]])) / sum(table["tokens"]) >= LEAST_GAP

    def share(sums: Mapping[str, Any]) -> Any:
        between = sums[gap[0]] - sums[gap[1]]
        # A resample without a gap says nothing finite; it counts as an extreme, at the floor of what is divided by.
        return (sums[part[0]] - sums[part[1]]) / np.maximum(between, LEAST_GAP * sums["tokens"])

    return over_sets([table for table in tables if defined(table)], share, seed)


def mean(tables: Sequence[Table], column: str, seed: int = 0) -> Interval | None:
    """Return the mean over sets of a column's mean over examples."""
    kept = [{column: t[column], "n": [1.0] * len(t[column])} for t in tables if t.get(column)]
    return over_sets(kept, lambda s: s[column] / s["n"], seed)


def harmonic(parts: Sequence[Any]) -> Any:
    """Return the harmonic mean of numbers or arrays; 0 where one is 0."""
    stacked = np.asarray(parts, dtype=np.float64)
    lowest = stacked.min(0)
    return np.where(lowest > 0, len(stacked) / (1 / np.where(stacked > 0, stacked, 1.0)).sum(0), 0.0)
