"""Figures of sums over examples, with bootstrap intervals, from columns of numbers of each example.

One resample of a data set serves every column, so shares and differences of methods are paired example by example.
Several data sets are resampled separately, and their figures averaged. (`scipy.stats.bootstrap` can do neither.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diekae.evaluation.metrics import LEAST_GAP

Numbers = NDArray[np.float64]
Columns = Mapping[str, Sequence[float]]
"""Numbers of each example of one data set, by name."""
Figure = Callable[[Mapping[str, Any]], Any]
"""Computes a figure from named sums, element by element: ``lambda sums: sums["nll"] / sums["tokens"]``."""

ROUNDS = 2000
BLOCK = 4_000_000
"""Counts held at once: rounds of a block times examples."""


class Interval(NamedTuple):
    """A figure with its 95 % interval."""

    value: float
    """The figure of all examples."""
    low: float
    """2.5th percentile of the resamples."""
    high: float
    """97.5th percentile."""


def bootstrap(
    tables: Sequence[Mapping[str, ArrayLike]], figure: Figure, seed: int = 0, rounds: int = ROUNDS
) -> Interval | None:
    """Return the mean over data sets of a figure, with its percentile interval (Efron, 1979); None without a set.

    Args:
        tables: For each data set, numbers of each example, [examples], by name.
        figure: Computes the figure from the columns' sums.
        seed: Decides the resamples.
        rounds: Number of resamples.

    Raises:
        ValueError: Columns are empty or of different lengths.
    """
    if not tables:
        return None
    arrays = [{name: np.asarray(column, dtype=np.float64) for name, column in table.items()} for table in tables]
    value = float(np.mean([figure({name: column.sum() for name, column in table.items()}) for table in arrays]))
    replicates = np.mean([figure(resample(table, rounds, seed + n)) for n, table in enumerate(arrays)], axis=0)
    low, high = np.quantile(replicates, (0.025, 0.975))
    return Interval(value, float(low), float(high))


def resample(columns: Mapping[str, ArrayLike], rounds: int = ROUNDS, seed: int = 0) -> dict[str, Numbers]:
    """Return each column's sums over examples drawn with replacement, [rounds], by name.

    Raises:
        ValueError: The columns are empty or of different lengths.
    """
    table = [np.asarray(column, dtype=np.float64) for column in columns.values()]
    shapes = {column.shape for column in table}
    if len(shapes) != 1 or not table[0].size or table[0].ndim != 1:
        raise ValueError(f"columns {', '.join(columns)} have shapes {sorted(shapes)}; expected one [examples] for all.")
    count, stacked = table[0].size, np.stack(table, axis=1)
    draw, sums = np.random.default_rng(seed), []
    for start in range(0, rounds, step := max(1, BLOCK // count)):
        # The counts of the draws are enough, and turn the sums into one matrix product.
        times = draw.multinomial(count, np.full(count, 1 / count), size=min(step, rounds - start))
        sums.append(times @ stacked)
    return dict(zip(columns, np.concatenate(sums).T, strict=True))


def mean_nll(tables: Sequence[Columns], column: str = "nll", seed: int = 0) -> Interval | None:
    """Return the mean over sets of a column per target token."""
    return bootstrap([table for table in tables if column in table], lambda sums: sums[column] / sums["tokens"], seed)


def mean(tables: Sequence[Columns], column: str, seed: int = 0) -> Interval | None:
    """Return the mean over sets of a column's mean over examples."""
    counted = [{column: table[column], "n": [1.0] * len(table[column])} for table in tables if table.get(column)]
    return bootstrap(counted, lambda sums: sums[column] / sums["n"], seed)


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

    return bootstrap([table for table in tables if is_defined(table)], share, seed)


def harmonic(parts: Sequence[Any]) -> Any:
    """Return the harmonic mean of numbers or arrays; 0 where one of them is 0."""
    stacked = np.asarray(parts, dtype=np.float64)
    lowest = stacked.min(0)
    return np.where(lowest > 0, len(stacked) / (1 / np.where(stacked > 0, stacked, 1.0)).sum(0), 0.0)
