"""Fitting a method: its estimated work, its cost and its training log."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from diekae.data.prompt import Prompt
from diekae.training.checkpoints import last_whole_checkpoint
from diekae_research.methods import Fitted, Task
from diekae_research.tables.cells import Result

EPOCH_WORK = {
    "bare": 0.0,
    "prompted": 0.0,
    "prompted_cached": 0.0,
    "ours": 2.5,
    "ours_finetuned": 6.0,
    "ours_finetuned_from_scratch": 3.5,
    "lora": 4.0,
    "sft": 8.0,
}
"""Cost of one epoch in forward passes over the training examples."""
OTHER_EPOCH_WORK = 4.0
"""The same for all other methods."""


def count_tokens(prompts: Sequence[Prompt]) -> int:
    """Return the number of tokens of anchor, K, x and y in all prompts."""
    return sum(len(p.anchor) + len(p.knowledge) + len(p.input) + len(p.target) for p in prompts)


def training_work(method: str, task: Task) -> float:
    """Return the estimated cost of training a method in decoder tokens; see :attr:`Cell.work`."""
    factor = EPOCH_WORK.get(method, OTHER_EPOCH_WORK)
    validations = task.training.evaluations * count_tokens(task.validation) if factor else 0
    return factor * task.training.epochs * count_tokens(task.train) + validations


def cost(fitted: Fitted) -> Result:
    """Return the cost of a fitted method as JSON values."""
    return {**fitted.cost._asdict(), "epoch_seconds": fitted.cost.epoch_seconds}


def read_log(folder: Path) -> list[dict[str, float]]:
    """Return the training log from the last checkpoint in a folder; empty for a method that is not trained."""
    checkpoint = last_whole_checkpoint(folder)
    if checkpoint is None:
        return []
    log: list[dict[str, float]] = json.loads((Path(checkpoint) / "trainer_state.json").read_text())["log_history"]
    return log
