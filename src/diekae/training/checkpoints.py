"""The Trainer's checkpoints: which of them are whole, and which is the best."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import TrainerCallback, TrainerState

from diekae.training.manifest import matches_manifest


def last_whole_checkpoint(folder: Path) -> str | None:
    """Return the newest checkpoint that was written completely and is not damaged.

    Newer ones are left in place, with a warning: the resumed run writes them again at the same steps.
    """
    steps = {path.name.removeprefix("checkpoint-"): path for path in folder.glob("checkpoint-*")}
    skipped: list[str] = []
    for step in sorted((step for step in steps if step.isdigit()), key=int, reverse=True):
        if matches_manifest(steps[step]):
            _warn_of(skipped, folder, f"continuing from {steps[step].name}")
            return str(steps[step])
        skipped.append(steps[step].name)
    _warn_of(skipped, folder, "there is no whole checkpoint")
    return None


def _warn_of(skipped: list[str], folder: Path, instead: str) -> None:
    """Warn of checkpoints that cannot be used."""
    if skipped:
        warnings.warn(
            f"{str(folder)!r}: {', '.join(skipped)} cannot be used: the files are incomplete or damaged, or were "
            f"written by an older version without a manifest; {instead}.",
            stacklevel=3,
        )


def find_best(state: TrainerState, folder: Path) -> bool:
    """Look for the best checkpoint in the run's folder, which may have been moved, and note its path in the state.

    Return False if it is missing or damaged. The Trainer would only warn about a missing path, and leave the bank
    untrained.
    """
    if state.best_model_checkpoint is None and not state.best_global_step:
        return True
    # The Trainer drops a path that does not exist here, but not the step.
    best = folder / Path(state.best_model_checkpoint or f"checkpoint-{state.best_global_step}").name
    if not matches_manifest(best):
        return False
    state.best_model_checkpoint = str(best)
    return True


@contextmanager
def checkpoint_errors(folder: Path) -> Iterator[None]:
    """Replace the errors of torch and safetensors while a checkpoint is written by one that names the folder.

    Raises:
        OSError: The disk is full, or the folder is not writable.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        raise OSError(
            f"the checkpoint {str(folder)!r} cannot be written ({str(error).splitlines()[0]}); expected a folder that "
            "can be written, on a disk that is not full. Free some space and resume: the last whole checkpoint is good."
        ) from error


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
