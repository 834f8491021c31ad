"""Early stopping, decided from the log alone, so that a resumed run decides as an uninterrupted one would."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import TrainerCallback, TrainerState


class Patience(TrainerCallback):
    """Stops a run after some validations without progress."""

    def __init__(self, patience: int) -> None:
        """Take the number of validations without progress after which the run ends."""
        self.patience = patience

    def exhausted(self, state: TrainerState) -> bool:
        """Tell whether a run in this state has ended."""
        return validations_without_progress(state.log_history) >= self.patience

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """End the run if its patience is exhausted."""
        if self.exhausted(state):
            control.should_training_stop = True


def validations_without_progress(log: Sequence[Mapping[str, Any]]) -> int:
    """Return the number of validations after the one with the lowest loss so far.

    Args:
        log: The Trainer's log; validations have the key ``eval_loss``.
    """
    best, count = float("inf"), 0
    for line in log:
        if "eval_loss" in line:
            count = 0 if line["eval_loss"] < best else count + 1
            best = min(best, line["eval_loss"])
    return count
