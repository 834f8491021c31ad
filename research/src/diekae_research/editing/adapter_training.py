"""Training of an edit adapter: once for a bank, on facts that are never reported.

An edit's target is learned behind its prompt in many wordings. The decoder must stay as it is behind the target, on
other questions about the subject, and on unrelated sentences. Without that the adapter learns to repeat the target
whatever is asked.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from diekae.data.example import Example
from diekae.data.prompt import Prompt, Prompter
from diekae.edit.adapter import EditAdapter
from diekae.inject.hooks import frozen
from diekae.model import DiekaeModel
from diekae.progress import Progress, silent
from diekae.training.checkpoints import last_whole_checkpoint
from diekae.training.config import TrainingConfig
from diekae.training.run import build_trainer
from diekae_research.data.case import Case
from diekae_research.editing.objective import EditObjective, EditRow, EditRows, learned_row, locality_row
from diekae_research.editing.phrasings import Phrasings, misspelt
from diekae_research.methods.tuning import ReportProgress

LONGEST = 24
"""Tokens of an input; a longer wording is replaced by the edit's prompt."""
BEHIND = 6
"""Tokens behind the target at which the decoder must stay."""
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


def make_rows(prompter: Prompter, cases: Sequence[Case], phrasings: Phrasings, seed: int) -> list[list[EditRow]]:
    """Make two rows of each case: its target behind some wording, and another question; a seed makes the same rows."""
    draw, items = random.Random(seed), []
    for number, case in enumerate(cases):
        statement = case.edit.statement
        text = _wording(case, phrasings, draw)
        if len(prompter.input(text, case.format)) > LONGEST:
            text = case.prompt
        # The answer to a question ends with its line, which is learned too.
        after = f". {draw.choice(phrasings.prefixes)}"
        behind = prompter.input(after, "plain")[:BEHIND] if case.format == "plain" else ()
        row = learned_row(prompter.prompt(Example((statement,), text, case.new), case.format), behind)
        other = phrasings.elsewhere(case, draw) if draw.random() < 0.75 else draw.choice(phrasings.prefixes)
        if case.format == "qa" or other is None:
            other = cases[number - 1].prompt
        ids = prompter.input(other, case.format)[:LONGEST]
        items.append([row, locality_row(Prompt(prompter.anchor(), prompter.knowledge(statement), ids, ()))])
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
    training: Sequence[list[EditRow]],
    validation: Sequence[list[EditRow]],
    folder: str | Path,
    *,
    settings: TrainingConfig = SETTINGS,
    locality: float = 0.5,
    progress: Progress = silent,
) -> tuple[EditAdapter, list[dict[str, float]]]:
    """Train an adapter; an interrupted run continues from its last checkpoint.

    Args:
        model: Decoder and bank; neither is changed.
        training: From :func:`make_rows`.
        validation: Chooses the checkpoint.
        folder: Folder of checkpoints.
        settings: Steps, batch size (items of two rows) and learning rates.
        locality: λ, see :mod:`diekae_research.editing.objective`.
        progress: Called as training goes on.

    Returns:
        The adapter, and the log.
    """
    torch.manual_seed(settings.seed)
    adapter = EditAdapter.for_model(model)
    flags = [(parameter, parameter.requires_grad) for parameter in model.bank.parameters()]
    model.bank.requires_grad_(False)
    try:
        with frozen(model.decoder):
            objective = EditObjective(model, adapter, locality)
            data: Any = [EditRows(training), EditRows(validation)]
            callback = ReportProgress("training the adapter", progress)
            trainer = build_trainer(objective, data, settings, Path(folder), None, [callback])
            trainer.train_from(last_whole_checkpoint(Path(folder)))
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
    return adapter.eval(), list(trainer.state.log_history)
