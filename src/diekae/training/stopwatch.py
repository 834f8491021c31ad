"""Seconds of a training run, over all calls of one that was cut off and resumed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from diekae.files import write_atomically

SECONDS_NAME = "seconds.txt"


class Stopwatch(TrainerCallback):
    """Measures a run and keeps the seconds beside its checkpoints; what a kill threw away does not count."""

    def __init__(self, folder: Path, resume: bool) -> None:
        """Start, and look up what earlier calls have spent.

        Args:
            folder: The run's.
            resume: Whether it goes on.
        """
        self.path = folder / SECONDS_NAME
        self.before = seconds_of(folder) if resume else 0.0
        self.start: float | None = None
        # What is done before the first step, such as collecting differences, is part of what training takes.
        self.made = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Return seconds in all calls."""
        return self.before + (time.perf_counter() - self.start if self.start else 0.0)

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Count from where this was made."""
        self.start = self.made

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Keep the seconds beside the checkpoint that they led to."""
        if state.is_world_process_zero:
            write_atomically(self.path, f"{self.seconds:.3f}\n")

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Stop."""
        self.before, self.start = self.seconds, None


def seconds_of(folder: Path) -> float:
    """Return the seconds that the run in a folder has taken so far; 0 where there is none."""
    path = folder / SECONDS_NAME
    return float(path.read_text()) if path.is_file() else 0.0
