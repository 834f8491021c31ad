"""One training run, from prompts to a saved bank: resumable, and the same with one process or several."""

import gc
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch.utils.tensorboard import SummaryWriter
from transformers import PrinterCallback, ProgressCallback, set_seed
from transformers.integrations.integration_utils import TensorBoardCallback

from diekae.data.batch import to_device
from diekae.data.prompt import Prompt, truncate_knowledge
from diekae.files import as_path
from diekae.fingerprint import window
from diekae.inject.hooks import frozen
from diekae.model import DiekaeModel
from diekae.models import resolve_dtype
from diekae.progress import Progress, silent
from diekae.training.cache import CachedDataset, cache_examples
from diekae.training.callbacks import LastStep, Patience, Stopwatch
from diekae.training.checkpoints import last_whole_checkpoint
from diekae.training.config import TrainingConfig
from diekae.training.dataset import PromptDataset
from diekae.training.differences import collect
from diekae.training.greedy_targets import use_greedy_targets
from diekae.training.objectives import OBJECTIVES, DifferenceObjective, Objective
from diekae.training.trainer import BankTrainer, Monitor, arguments


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
        model: Decoder and bank. The bank is trained, the decoder is not changed.
        training: Prompts to learn from.
        validation: Prompts that choose the best checkpoint.
        config: How to train.
        folder: Folder of the checkpoints, the TensorBoard logs and the bank.
        resume: Continue from the last whole checkpoint in the folder, if there is one.
        monitor: Measured at each validation.
        progress: Called while examples are answered and collected.
        callbacks: More of the Trainer's callbacks; with any, the Trainer's own progress bar is left out.

    Returns:
        The Trainer's log, one dictionary a line.

    Raises:
        ValueError: A part has no example, or an example does not fit the window.
        diekae.training.trainer.NotFinite: A gradient was not finite.
    """
    folder = as_path(folder)
    clock = Stopwatch(folder, resume)
    set_seed(config.seed)
    model.bank.autocast = torch.bfloat16 if resolve_dtype(config.precision, model.device) == "bf16" else None
    with frozen(model.decoder):
        checkpoint = last_whole_checkpoint(folder) if resume else None
        objective, data = _load(model, training, validation, config, folder, checkpoint is None, progress)
        trainer = build_trainer(objective, data, config, folder, monitor, callbacks)
        trainer.add_callback(clock)
        trainer.train_from(checkpoint)
    model.bank.autocast = None
    if trainer.is_world_process_zero():
        model.save_pretrained(folder / "bank")
    return list(trainer.state.log_history)


def _load(
    model: DiekaeModel,
    training: Sequence[Prompt],
    validation: Sequence[Prompt],
    config: TrainingConfig,
    folder: Path,
    new: bool,
    progress: Progress,
) -> tuple[Objective, list[PromptDataset | CachedDataset]]:
    """Build the objective and both data sets; calibrate the bank if the run is new."""
    if not training or not validation:
        raise ValueError(
            f"got {len(training)} training and {len(validation)} validation examples; give at least one each."
        )
    options = {name: True for name in ("whole_input", "gradient_checkpointing") if getattr(config, name)}
    objective = OBJECTIVES[config.objective](model, **options)
    datasets = []
    for part, prompts in (("train", training), ("validation", validation)):
        answers, answering = folder / f"answers-{part}.json", partial(progress, f"answering: {part}")
        prompts = use_greedy_targets(model, prompts, config.own_answers, answers, answering)
        prompts = truncate_knowledge(prompts, config.max_knowledge, window(model.decoder))
        datasets.append(PromptDataset(prompts, scope=model.config.scope, anchor=model.config.anchor))
    if new and isinstance(objective, DifferenceObjective):
        calibrate(model, datasets[0], config)
    if not config.cache:
        return objective, [*datasets]
    with processes().main_process_first():  # the other processes then find the cache complete
        return objective, [
            cache_examples(objective, dataset, config, partial(progress, f"collecting: {part}"))
            for part, dataset in zip(("train", "validation"), datasets, strict=True)
        ]


def build_trainer(
    objective: Any,
    data: Sequence[PromptDataset | CachedDataset],
    config: TrainingConfig,
    folder: Path,
    monitor: Monitor | None,
    callbacks: Sequence[Any],
    kind: type[BankTrainer] = BankTrainer,
) -> BankTrainer:
    """Build the trainer of one run, of a kind; ``data`` are training and validation examples.

    The objective is an :class:`Objective`, or a module with the same ``count``, ``forward`` and ``layers``.
    """
    batch = config.batch_size * config.gradient_accumulation * processes().num_processes
    steps = config.max_steps if config.max_steps > 0 else math.ceil(len(data[0]) / batch * config.epochs)
    all_callbacks: list[Any] = [LastStep(), *callbacks]
    if processes().is_main_process:
        all_callbacks.append(TensorBoardCallback(SummaryWriter(str(folder / "tensorboard"))))
    if config.patience:
        all_callbacks.append(Patience(config.patience))
    trainer = kind(
        objective,
        arguments(config, folder, steps, len(data[0]) >= batch, next(objective.parameters()).device),
        clip=config.clip or math.inf,
        monitor=monitor,
        train_dataset=data[0],
        eval_dataset=data[1],
        data_collator=data[0].collate,
        callbacks=all_callbacks,
    )
    if callbacks:  # they show the progress themselves
        trainer.remove_callback(ProgressCallback)
        trainer.remove_callback(PrinterCallback)
    return trainer


@torch.no_grad()
def calibrate(model: DiekaeModel, dataset: PromptDataset, config: TrainingConfig) -> None:
    """Measure centre and scale of the differences on the first examples, the same in every process."""
    if not model.config.normalize or model.bank.calibrated:
        return  # don't recalibrate: the outputs of a trained bank are in its training units
    batch = to_device(dataset.collate(dataset.prompts[: config.calibration]), model.device)
    differences = collect(model.decoder, model.hookpoints, batch, kind=model.config.difference)
    model.bank.calibrate(differences.targets, differences.receives)


def processes() -> PartialState:
    """Return the processes that share this run. Without a GPU each process must be told, or it believes it is alone."""
    return PartialState(cpu=not torch.cuda.is_available())


def leave_processes() -> None:
    """Leave the processes that share this run, because gloo's threads may abort the process at interpreter exit.

    The threads end with the last reference to the group, and the wrapped bank holds one in a reference cycle.
    """
    state = processes()
    if state.num_processes > 1:
        state.destroy_process_group()
        gc.collect()
