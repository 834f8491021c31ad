"""Training a memory adapter: once for a bank, on facts that are none of those reported.

An edit's target is taught after its prompt in many words. The decoder stays as it is behind the target, on what else is
asked of the same subject, and on sentences that have nothing to do with it: without that the adapter learns to say the
target over and over, whatever is asked, and leaves all to the gate.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from diekae.data.example import Example
from diekae.data.prompt import Prompt, Prompter
from diekae.edit.adapter import AdapterOptions, EditAdapter
from diekae.inject.hooks import frozen
from diekae.model import DiekaeModel
from diekae.progress import Progress, silent
from diekae.training.config import TrainingConfig
from diekae.training.run import build_trainer
from diekae.training.trainer import last_whole_checkpoint
from diekae_research.editing.cases import Case
from diekae_research.editing.lessons import Lesson, LessonObjective, Lessons, Told, staying, taught
from diekae_research.editing.phrasings import Phrasings, misspelt

LONGEST = 24
"""Tokens of an input; longer ones are asked for by the edit's own prompt."""
BEHIND = 6
"""Tokens behind the target along which the decoder stays."""
SETTINGS = TrainingConfig(
    objective="cross_entropy",
    max_steps=60,
    batch_size=6,
    learning_rate=3e-3,
    start_learning_rate=5e-4,
    final_learning_rate=1e-4,
    evaluations=6,
    logging_steps=5,
)


def make_lessons(prompter: Prompter, cases: Sequence[Case], phrasings: Phrasings, seed: int) -> list[list[Lesson]]:
    """Make two rows of each case: its target after some wording, and something else asked; a seed makes the same."""
    draw, items = random.Random(seed), []
    for number, case in enumerate(cases):
        statement = (case.edit.statement,)
        text = _wording(case, phrasings, draw)
        if len(prompter.input(text, case.format)) > LONGEST:
            text = case.prompt
        # A question's answer ends its line, which is taught too.
        after = f". {draw.choice(phrasings.prefixes)}"
        behind = prompter.input(after, "plain")[:BEHIND] if case.format == "plain" else ()
        lesson = taught(prompter.prompt(Example(statement, text, case.new), case.format), behind)
        other = phrasings.elsewhere(case, draw) if draw.random() < 0.75 else draw.choice(phrasings.prefixes)
        if case.format == "qa" or other is None:
            other = cases[number - 1].prompt
        ids = prompter.input(other, case.format)[:LONGEST]
        items.append([lesson, staying(Prompt(prompter.anchor(), prompter.knowledge(statement[0]), ids, ()))])
    return items


def _wording(case: Case, phrasings: Phrasings, draw: random.Random) -> str:
    """Ask for a case's target in some words."""
    if case.paraphrases and draw.random() < 0.6:
        return draw.choice(case.paraphrases)
    text = phrasings.reworded(case, draw) if case.format == "plain" and draw.random() < 0.5 else case.prompt
    if draw.random() < 0.25:
        text = text.replace(case.subject, misspelt(case.subject, draw))
    return phrasings.behind(text, draw) if case.format == "plain" and draw.random() < 0.4 else text


def train_adapter(
    model: DiekaeModel,
    training: Sequence[list[Lesson]],
    validation: Sequence[list[Lesson]],
    folder: str | Path,
    *,
    options: AdapterOptions | None = None,
    settings: TrainingConfig = SETTINGS,
    locality: float = 0.5,
    resume: bool = True,
    progress: Progress = silent,
) -> tuple[EditAdapter, list[dict[str, float]]]:
    """Train an adapter; a run that was cut off goes on from its last checkpoint.

    Args:
        model: Decoder and bank; neither is changed.
        training: From :func:`make_lessons`.
        validation: Chooses the checkpoint.
        folder: Of checkpoints.
        options: Sizes.
        settings: Steps, batch size (items of two rows) and learning rates.
        locality: λ, see :mod:`diekae_research.editing.lessons`.
        resume: Whether to go on.
        progress: Told how far it is.

    Returns:
        The adapter, and the log.
    """
    torch.manual_seed(settings.seed)
    adapter = EditAdapter.for_model(model, options)
    wanted = [(parameter, parameter.requires_grad) for parameter in model.bank.parameters()]
    model.bank.requires_grad_(False)
    try:
        with frozen(model.decoder):
            objective = LessonObjective(model, adapter, locality, adapter)
            data: Any = [Lessons(training), Lessons(validation)]
            watch = Told("training the adapter", progress)
            trainer = build_trainer(objective, data, settings, Path(folder), None, [watch])
            trainer.train_from(last_whole_checkpoint(Path(folder)) if resume else None)
    finally:
        for parameter, flag in wanted:
            parameter.requires_grad_(flag)
    return adapter.eval(), list(trainer.state.log_history)
