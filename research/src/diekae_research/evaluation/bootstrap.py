"""Bootstrap intervals of figures that are functions of sums over examples.

`scipy.stats.bootstrap` is not used: figures here combine several columns and data sets, resampled as counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Numbers = NDArray[np.float64]
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
    columns: Mapping[str, ArrayLike], figure: Figure, *, rounds: int = ROUNDS, seed: int = 0, level: float = 0.95
) -> Interval:
    """Return a figure with its percentile interval over resampled examples (Efron, 1979).

    All columns share a resample. So a difference of two methods is paired by example: put both methods' sums into the
    columns and let the figure subtract them.

    Args:
        columns: Numbers of each example, [examples], by name.
        figure: Computes the figure from the columns' sums.
        rounds: Number of resamples.
        seed: Decides the resamples.
        level: Share of the resamples inside the interval.

    Raises:
        ValueError: The columns are empty or of different lengths, or rounds or level is out of range.
    """
    if rounds < 1 or not 0 < level < 1:
        raise ValueError(f"rounds={rounds} must be at least 1 and level={level} between 0 and 1.")
    table = {name: np.asarray(column, dtype=np.float64) for name, column in columns.items()}
    value = float(figure({name: column.sum() for name, column in table.items()}))
    replicates = np.asarray(figure(resample(table, rounds, seed)), dtype=np.float64)
    low, high = np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))


def resample(columns: Mapping[str, ArrayLike], rounds: int = ROUNDS, seed: int = 0) -> dict[str, Numbers]:
    """Return each column's sums over examples drawn with replacement, [rounds], by name.

    For a figure over several data sets, resample each of them and combine the sums.

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
