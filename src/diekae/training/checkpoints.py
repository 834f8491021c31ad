"""The Trainer's checkpoints: which of them are whole, and which is the best."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerState


def last_whole_checkpoint(folder: Path) -> str | None:
    """Return the newest checkpoint that was written completely.

    The Trainer writes ``trainer_state.json`` last, so a checkpoint without a readable one was interrupted. It is left
    in place: the resumed run writes it again at the same step.
    """
    steps = {path.name.removeprefix("checkpoint-"): path for path in folder.glob("checkpoint-*")}
    for step in sorted((step for step in steps if step.isdigit()), key=int, reverse=True):
        try:
            json.loads((steps[step] / "trainer_state.json").read_text())
        except (OSError, ValueError):
            continue
        return str(steps[step])
    return None


def find_best(state: TrainerState, folder: Path) -> bool:
    """Look for the best checkpoint in the run's folder, which may have been moved, and note its path in the state.

    Return False if it is missing. The Trainer would only warn about a missing path, and leave the bank untrained.
    """
    if state.best_model_checkpoint is None:
        return True
    best = folder / Path(state.best_model_checkpoint).name
    if best.is_dir():
        state.best_model_checkpoint = str(best)
    return best.is_dir()


class LastStep(TrainerCallback):
    """Validates and saves after the last step too, so that it can be the best."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Find the best checkpoint of a resumed run; if it is missing, the next best is chosen."""
        if not find_best(state, Path(args.output_dir)):
            state.best_metric = state.best_model_checkpoint = None

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Ask for both."""
        if state.global_step >= state.max_steps:
            control.should_evaluate = control.should_save = True
