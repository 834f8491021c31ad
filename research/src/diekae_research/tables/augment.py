"""Knowledge augmentation, the paper's main task (section 5.1): one cell trains a method on a mixture and scores it.

Tables 1 and 5 and figure 3 are different looks at such cells, so a cell that one has measured serves the others.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diekae.config import DiekaeConfig
from diekae.data.prompt import Prompt
from diekae.training.trainer import last_whole_checkpoint
from diekae_research.methods import Task, fit
from diekae_research.tables.cells import Cell, Result, digest_prompts
from diekae_research.tables.lab import Lab
from diekae_research.tables.plan import QUESTION_SETS
from diekae_research.tables.score import score_texts, time_passes

SETS = ("cmu_dog", "curiosity", "dream", "natural_questions", "quasar_t", "wizard_of_wikipedia")
"""The paper's (section 4.1)."""
PASSES = 5
"""Passes over the scored examples that a cell is worth, answers included."""
TRAINING_WORK = {
    "bare": 0.0,
    "prompted": 0.0,
    "prompted_cached": 0.0,
    "ours": 2.5,
    "ours_finetuned": 6.0,
    "ours_finetuned_from_scratch": 3.5,
    "lora": 4.0,
    "sft": 8.0,
}
"""Forward passes that one epoch is worth; others are taken for 4."""


def mixture(lab: Lab, sets: Sequence[str]) -> tuple[list[Prompt], list[Prompt]]:
    """Return all sets' examples to train on, shuffled together, and those to choose by."""
    learn, check = ([p for name in sets for p in getattr(lab.parts(name), part)] for part in ("train", "validation"))
    random.Random(lab.plan.seed).shuffle(learn)
    return learn, check


def augmentation(lab: Lab, method: str, sets: Sequence[str], config: DiekaeConfig | None = None) -> Cell:
    """Return the cell of one method on some sets.

    Args:
        lab: Where.
        method: A registered method.
        sets: Data sets that are present; a method is trained on all of them together.
        config: What a bank is; the plan's preset if None.

    Returns:
        A cell whose result has ``sets`` (columns of :func:`score_texts` by set), ``cost``, ``seconds`` and ``log``.
    """
    task = lab.task(*mixture(lab, sets), config=config)
    settings = {
        **lab.settings(method, task),
        "test": {name: digest_prompts(lab.parts(name).test) for name in sets},
        "answers": [name for name in sets if name in QUESTION_SETS],
    }
    tested = [prompt for name in sets for prompt in lab.parts(name).test]
    work = PASSES * size(tested) + training_work(method, task)
    return Cell(f"augment-{method}", settings, work, lambda: measure(lab, method, sets, task))


def measure(lab: Lab, method: str, sets: Sequence[str], task: Task) -> Result:
    """Fit a method and score it on every set."""
    bare, prompted = fit("bare", task), fit("prompted", task)
    fitted = fit(method, task)
    scored = {
        name: score_texts(
            fitted,
            bare,
            lab.parts(name).test,
            batch_size=lab.plan.batch_size,
            answer=name in QUESTION_SETS,
            progress=lambda what, done, total, name=name: lab.progress(f"{name}: {what}", done, total),  # type: ignore[misc]
        )
        for name in sets
    }
    timed = [lab.parts(name).test[n] for n in range(8) for name in sets if n < len(lab.parts(name).test)]
    return {
        "sets": scored,
        "cost": cost(fitted),
        "seconds": time_passes(fitted, bare, prompted, timed),
        "log": read_log(task.place(method)),
    }


def cost(fitted: Any) -> dict[str, float]:
    """Return what fitting took, as JSON values."""
    return {**fitted.cost._asdict(), "epoch_seconds": fitted.cost.epoch_seconds}


def read_log(folder: Path) -> list[dict[str, float]]:
    """Return the log of a training run from its last checkpoint; empty for a method that trains nothing."""
    checkpoint = last_whole_checkpoint(folder)
    if checkpoint is None:
        return []
    log: list[dict[str, float]] = json.loads((Path(checkpoint) / "trainer_state.json").read_text())["log_history"]
    return log


def size(prompts: Sequence[Prompt]) -> int:
    """Return the tokens of anchor, K, x and y of all prompts."""
    return sum(len(p.anchor) + len(p.knowledge) + len(p.input) + len(p.target) for p in prompts)


def training_work(method: str, task: Task) -> float:
    """Return about how many tokens through the decoder training a method is worth; see :attr:`Cell.work`."""
    factor = TRAINING_WORK.get(method, 4.0)
    checks = task.training.evaluations * size(task.validation) if factor else 0
    return factor * task.training.epochs * size(task.train) + checks
