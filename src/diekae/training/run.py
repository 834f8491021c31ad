"""One training run, from prompts to a saved bank: resumable, and the same on one process or several."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch.utils.tensorboard import SummaryWriter
from transformers import EarlyStoppingCallback, PrinterCallback, ProgressCallback, set_seed
from transformers.integrations.integration_utils import TensorBoardCallback

from diekae.data.prompt import Prompt, to_device, truncate_knowledge
from diekae.fingerprint import fingerprint, window
from diekae.inject.hooks import frozen
from diekae.model import DiekaeModel
from diekae.models import settled_dtype
from diekae.progress import Progress, silent
from diekae.training.answers import answer_some
from diekae.training.config import TrainingConfig
from diekae.training.dataset import CachedDataset, PromptDataset, collect_to_disk
from diekae.training.objectives import OBJECTIVES, DifferenceObjective, Objective
from diekae.training.stopwatch import Stopwatch
from diekae.training.trainer import BankTrainer, LastStep, Monitor, arguments, last_whole_checkpoint


def train(
    model: DiekaeModel,
    training: Sequence[Prompt],
    validation: Sequence[Prompt],
    config: TrainingConfig,
    folder: str | Path,
    *,
    resume: bool = False,
    monitor: Monitor | None = None,
    progress: Progress = silent,
    callbacks: Sequence[Any] = (),
) -> list[dict[str, float]]:
    """Train a bank and save it to ``folder/bank``.

    Args:
        model: Decoder and bank; the bank is changed, the decoder is not.
        training: Prompts to learn from.
        validation: Prompts that choose the best checkpoint.
        config: How.
        folder: Checkpoints, TensorBoard logs and the bank go there.
        resume: Go on from the last whole checkpoint in the folder, if there is one.
        monitor: Measured at each validation.
        progress: Told how far collecting is.
        callbacks: More of the Trainer's callbacks; with any, its own progress bar is left out.

    Returns:
        The log: one dictionary a line, as the Trainer writes it.

    Raises:
        ValueError: There is nothing to train on, or an example does not fit the window.
        diekae.training.trainer.NotFinite: A gradient was not finite.
    """
    if not training or not validation:
        raise ValueError(
            f"got {len(training)} training and {len(validation)} validation examples; give at least one each."
        )
    folder = Path(folder)
    clock = None if any(isinstance(one, Stopwatch) for one in callbacks) else Stopwatch(folder, resume)
    set_seed(config.seed)
    objective = OBJECTIVES[config.objective](model, **({"whole_input": True} if config.whole_input else {}))
    model.bank.autocast = torch.bfloat16 if settled_dtype(config.precision, model.device) == "bf16" else None
    with frozen(model.decoder):
        answered = [
            answer_some(model, part, config.own_answers, folder / f"answers-{name}.json", partial(progress, told))
            for part, name, told in (
                (training, "train", "answering for training"),
                (validation, "validation", "answering for validation"),
            )
        ]
        learn, check = (_dataset(model, part, config) for part in answered)
        checkpoint = last_whole_checkpoint(folder) if resume else None
        if checkpoint is None and isinstance(objective, DifferenceObjective):
            calibrate(model, learn, config)
        data: list[PromptDataset | CachedDataset] = [learn, check]
        if config.cache:
            names = ("collecting for training", "collecting for validation")
            data = [
                _cached(objective, part, config, name, progress)
                for part, name in zip((learn, check), names, strict=True)
            ]
        trainer = build_trainer(objective, data, config, folder, monitor, callbacks)
        if clock is not None:
            trainer.add_callback(clock)
        trainer.train_from(checkpoint)
    model.bank.autocast = None
    if trainer.is_world_process_zero():
        model.save_pretrained(folder / "bank")
    return list(trainer.state.log_history)


def _dataset(model: DiekaeModel, prompts: Sequence[Prompt], config: TrainingConfig) -> PromptDataset:
    cut = truncate_knowledge(prompts, config.max_knowledge, window(model.decoder))
    return PromptDataset(cut, scope=model.config.scope, anchor=model.config.anchor)


def build_trainer(
    objective: Any,
    data: Sequence[PromptDataset | CachedDataset],
    config: TrainingConfig,
    folder: Path,
    monitor: Monitor | None,
    callbacks: Sequence[Any],
    kind: type[BankTrainer] = BankTrainer,
) -> BankTrainer:
    """Build the trainer of one run.

    Args:
        objective: What is trained: an :class:`Objective`, or a module that counts and adds up as one does.
        data: Training and validation examples.
        config: How.
        folder: Checkpoints and TensorBoard logs go there.
        monitor: Measured at each validation.
        callbacks: As :func:`train` takes them.
        kind: The trainer's class.
    """
    batch = config.batch_size * config.gradient_accumulation * processes().num_processes
    steps = config.max_steps if config.max_steps > 0 else math.ceil(len(data[0]) / batch * config.epochs)
    extra: list[Any] = [LastStep(), *callbacks]
    if processes().is_main_process:
        extra.append(TensorBoardCallback(SummaryWriter(str(folder / "tensorboard"))))
    if config.patience:
        extra.append(EarlyStoppingCallback(config.patience))
    trainer = kind(
        objective,
        arguments(config, folder, steps, len(data[0]) >= batch, next(objective.parameters()).device),
        clip=config.clip or math.inf,
        monitor=monitor,
        train_dataset=data[0],
        eval_dataset=data[1],
        data_collator=data[0].collate,
        callbacks=extra,
    )
    if callbacks:  # they show the training in their own way
        trainer.remove_callback(ProgressCallback)
        trainer.remove_callback(PrinterCallback)
    return trainer


@torch.no_grad()
def calibrate(model: DiekaeModel, dataset: PromptDataset, config: TrainingConfig) -> None:
    """Measure centre and scale of the differences on the first examples, alike in every process."""
    if not model.config.normalize or model.bank.calibrated:
        return  # a bank that was trained before means what it says in the units it was trained in
    prompts = dataset.prompts[: config.calibration]
    batch = to_device(dataset.collate(prompts), model.device)
    teacher = dataclasses.replace(model.config, rollout="teacher")
    found = DifferenceObjective(model).collect(batch, teacher)
    model.bank.calibrate(found.targets, found.receives)


def _cached(
    objective: Objective, dataset: PromptDataset, config: TrainingConfig, name: str, progress: Progress
) -> CachedDataset:
    """Collect to disk, in the main process first; the others then find it done."""
    model = objective.model
    assert config.cache
    if any(prompt.apart for prompt in dataset.prompts):
        raise ValueError("documents that are prepared apart cannot be cached; leave cache out, or `apart` in the data.")
    key = {
        "objective": config.objective,
        "whole_input": config.whole_input,
        "decoder": fingerprint(model.decoder),
        "dtype": str(model.decoder.dtype),
        "reads": model.bank.encoder.reads,
        "width": getattr(model.bank.encoder, "state_width", None),
        "layers": list(model.layers),
        **{name: getattr(model.config, name) for name in ("site", "difference", "scope", "anchor")},
    }
    with processes().main_process_first():
        return collect_to_disk(
            Path(config.cache),
            dataset,
            lambda batch: objective.keep(to_device(batch, model.device)),
            key=key,
            limit_gb=config.cache_limit_gb,
            progress=lambda done, total: progress(name, done, total),
        )


def processes() -> PartialState:
    """Return the processes that share this run; without a GPU they must be told so, or each believes itself alone."""
    return PartialState(cpu=not torch.cuda.is_available())
