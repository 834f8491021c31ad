"""Seconds of a training run, over all calls of a run that was interrupted and resumed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from diekae.files import write_atomically

SECONDS_NAME = "seconds.txt"


class Stopwatch(TrainerCallback):
    """Measures a run and stores the seconds beside its checkpoints. Steps that a kill threw away do not count."""

    def __init__(self, folder: Path, resume: bool) -> None:
        """Start, from the seconds of earlier calls if the run is resumed.

        Args:
            folder: Folder of the run.
            resume: Whether the run is resumed.
        """
        self.path = folder / SECONDS_NAME
        self.before = seconds_of(folder) if resume else 0.0
        self.start: float | None = None
        # Work before the first step, such as collecting differences, is part of training.
        self.created = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Return the seconds of all calls."""
        return self.before + (time.perf_counter() - self.start if self.start else 0.0)

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Count from the time this object was created."""
        self.start = self.created

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Store the seconds beside the new checkpoint."""
        if state.is_world_process_zero:
            write_atomically(self.path, f"{self.seconds:.3f}\n")

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Stop."""
        self.before, self.start = self.seconds, None


def seconds_of(folder: Path) -> float:
    """Return the seconds that the run in a folder has taken so far; 0 if there is none.

    Raises:
        ValueError: The file of the seconds is damaged.
    """
    path = folder / SECONDS_NAME
    try:
        return float(path.read_text()) if path.is_file() else 0.0
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is not a number of seconds; delete it, to count from 0.") from error
