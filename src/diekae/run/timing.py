"""Time several ways of doing something in turn, so that noise affects all of them equally."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from diekae.progress import BatchProgress, silent

TimedCall = Callable[[], object]
"""One way of doing something."""


def clock() -> float:
    """Return seconds: this process's CPU time if it runs on a CPU with one thread, else wall-clock time.

    CPU time leaves out other programs on the same core, except for what they take from its caches.
    """
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


class Times(dict[str, float]):
    """Median seconds of each call, and how the calls compare within each round."""

    def __init__(self, taken: Mapping[str, Sequence[float]]) -> None:
        """Take the seconds of all rounds, by name."""
        super().__init__({name: statistics.median(values) for name, values in taken.items()})
        self.taken = taken

    def ratio(self, name: str, base: str) -> float:
        """Return the median over rounds of one call's seconds to another's: a slow round slows both."""
        return statistics.median(a / b for a, b in zip(self.taken[name], self.taken[base], strict=True))


def time_in_turn(calls: Mapping[str, TimedCall], rounds: int, progress: BatchProgress = silent) -> Times:
    """Time several calls, one after the other in every round.

    Args:
        calls: The calls by name. A pair (prepare, run) is possible: ``run`` gets what ``prepare`` returns, and only
            ``run`` is timed.
        rounds: Timed rounds; one more round before them warms up.
        progress: Called after each round.
    """
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            run: Any = call
            if isinstance(call, tuple):
                prepare, run_prepared = call
                run = partial(run_prepared, prepare())
            start = clock()
            run()
            if number:
                taken[name].append(clock() - start)
        progress(number, rounds)
    return Times(taken)
