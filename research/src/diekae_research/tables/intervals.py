"""Figures with bootstrap intervals, from the columns that cells keep.

One resample of a data set serves every method and column, so shares and differences are paired example by example.
Several data sets are resampled separately, and their figures averaged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from diekae.evaluation.metrics import LEAST_GAP
from diekae_research.evaluation.bootstrap import Interval, resample

Columns = Mapping[str, Sequence[float]]
"""Numbers of each example of one data set, by name."""


def over_sets(tables: Sequence[Columns], figure: Callable[[Mapping[str, Any]], Any], seed: int = 0) -> Interval | None:
    """Return the mean over data sets of a figure of sums, with its bootstrap interval; None without a set."""
    if not tables:
        return None
    arrays = [{name: np.asarray(column, dtype=np.float64) for name, column in table.items()} for table in tables]
    value = float(np.mean([figure({name: column.sum() for name, column in table.items()}) for table in arrays]))
    replicates = np.mean([figure(resample(table, seed=seed + n)) for n, table in enumerate(arrays)], axis=0)
    low, high = np.quantile(replicates, (0.025, 0.975))
    return Interval(value, float(low), float(high))


def mean_nll(tables: Sequence[Columns], column: str = "nll", seed: int = 0) -> Interval | None:
    """Return the mean over sets of a column per target token."""
    return over_sets([table for table in tables if column in table], lambda sums: sums[column] / sums["tokens"], seed)


def mean(tables: Sequence[Columns], column: str, seed: int = 0) -> Interval | None:
    """Return the mean over sets of a column's mean over examples."""
    counted = [{column: table[column], "n": [1.0] * len(table[column])} for table in tables if table.get(column)]
    return over_sets(counted, lambda sums: sums[column] / sums["n"], seed)


def recovered(tables: Sequence[Columns], seed: int = 0) -> Interval | None:
    """Return the mean share of the knowledge gap that is closed, over sets whose gap is at least 0.05 nats.

    Args:
        tables: Columns ``nll``, ``bare``, ``prompted`` and ``tokens``.
        seed: Seed of the resamples.
    """
    return _share(tables, ("bare", "nll"), ("bare", "prompted"), seed)


def grounded(tables: Sequence[Columns], seed: int = 0) -> Interval | None:
    """Return the same share for what K says: the cost of another example's K, of the method relative to D's.

    Args:
        tables: Columns ``nll``, ``nll_other``, ``prompted``, ``prompted_other`` and ``tokens``.
        seed: Seed of the resamples.
    """
    return _share(tables, ("nll_other", "nll"), ("prompted_other", "prompted"), seed)


def _share(tables: Sequence[Columns], part: tuple[str, str], gap: tuple[str, str], seed: int) -> Interval | None:
    def is_defined(table: Columns) -> bool:
        if not {*part, *gap} <= set(table):
            return False
        return (sum(table[gap[0]]) - sum(table[gap[1]])) / sum(table["tokens"]) >= LEAST_GAP

    def share(sums: Mapping[str, Any]) -> Any:
        # A resample may have no gap. The least gap keeps its share finite, so it counts as an extreme.
        width = np.maximum(sums[gap[0]] - sums[gap[1]], LEAST_GAP * sums["tokens"])
        return (sums[part[0]] - sums[part[1]]) / width

    return over_sets([table for table in tables if is_defined(table)], share, seed)


def harmonic(parts: Sequence[Any]) -> Any:
    """Return the harmonic mean of numbers or arrays; 0 where one of them is 0."""
    stacked = np.asarray(parts, dtype=np.float64)
    lowest = stacked.min(0)
    return np.where(lowest > 0, len(stacked) / (1 / np.where(stacked > 0, stacked, 1.0)).sum(0), 0.0)
