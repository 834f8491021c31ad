"""The Trainer's callbacks of every run: the last step, early stopping, and the time that training has taken.

All of them work the same in a resumed run as in an uninterrupted one.
"""

import time
import warnings
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerState

from diekae.files import write_atomically
from diekae.training.checkpoints import find_best

SECONDS_NAME = "seconds.txt"


class LastStep(TrainerCallback):
    """Validates and saves after the last step too, so that it can be the best."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Find the best checkpoint of a resumed run; if it is missing or damaged, the next best is chosen."""
        if not find_best(state, Path(args.output_dir)):
            warnings.warn(
                f"{args.output_dir!r}: the best checkpoint so far, of step {state.best_global_step}, is missing or "
                "damaged; the best of the later ones is chosen.",
                stacklevel=2,
            )
            state.best_metric = state.best_model_checkpoint = state.best_global_step = None

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Ask for both."""
        if state.global_step >= state.max_steps:
            control.should_evaluate = control.should_save = True


class Patience(TrainerCallback):
    """Stops a run after some validations without progress, counted in the log alone."""

    def __init__(self, patience: int) -> None:
        """Take the number of validations without progress after which the run ends."""
        self.patience = patience

    def exhausted(self, state: TrainerState) -> bool:
        """Tell whether a run in this state has ended: the lowest loss so far is too many validations ago."""
        losses = [line["eval_loss"] for line in state.log_history if "eval_loss" in line]
        return bool(losses) and len(losses) - 1 - losses.index(min(losses)) >= self.patience

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """End the run if its patience is exhausted."""
        if self.exhausted(state):
            control.should_training_stop = True


class Stopwatch(TrainerCallback):
    """Stores the seconds of a run beside each checkpoint, so that steps that a kill threw away do not count."""

    def __init__(self, folder: Path, resume: bool) -> None:
        """Start now: work before the first step is part of training. A resumed run adds to its earlier calls."""
        self.path = folder / SECONDS_NAME
        self.start = time.perf_counter() - (seconds_of(folder) if resume else 0.0)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Store the seconds."""
        if state.is_world_process_zero:
            write_atomically(self.path, f"{time.perf_counter() - self.start:.3f}\n")


def seconds_of(folder: Path) -> float:
    """Return the seconds that the run in a folder has taken so far, 0 if there is none; ValueError if damaged."""
    path = folder / SECONDS_NAME
    try:
        return float(path.read_text()) if path.is_file() else 0.0
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is not a number of seconds; delete it, to count from 0.") from error
