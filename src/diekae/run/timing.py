"""Seconds of several ways of doing something, in turn, so that noise meets all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

Way = Callable[[], object]
"""One way of doing something, to be timed."""


def clock() -> float:
    """Return seconds of this process's own work on a CPU with one thread, else of the wall.

    Other programs on the same core then lengthen nothing but what they take from its caches.
    """
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


class Times(dict[str, float]):
    """Median seconds by way, and how the ways compare within each round."""

    def __init__(self, taken: Mapping[str, Sequence[float]]) -> None:
        """Keep what every round took."""
        super().__init__({name: statistics.median(values) for name, values in taken.items()})
        self.taken = taken

    def ratio(self, name: str, base: str) -> float:
        """Return the median over rounds of one way's seconds to another's: a slow round slows both."""
        return statistics.median(a / b for a, b in zip(self.taken[name], self.taken[base], strict=True))


def time_in_turn(
    ways: Mapping[str, Way], rounds: int, progress: Callable[[int, int], None] = lambda _done, _all: None
) -> Times:
    """Return seconds of several ways, one after the other in every round.

    Args:
        ways: Names what is run. A way may be a pair (prepare, run): what the first returns is handed to the second, and
            only the second is timed.
        rounds: Times each is timed, after one round that warms up.
        progress: Told how far it is.
    """
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            run: Any = way
            if isinstance(way, tuple):
                given = way[0]()
                run = lambda last=way[1], given=given: last(given)  # noqa: E731 - bound to this way
            start = clock()
            run()
            if number:
                taken[name].append(clock() - start)
        progress(number, rounds)
    return Times(taken)
