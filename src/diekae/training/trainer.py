"""One trainer for all objectives, on the Hugging Face Trainer: what differs from it, and nothing else.

Differences: losses are sums over positions divided by the count of the *global* batch, so that accumulation and
processes change nothing; gradients are clipped per encoder; the loss and the unexplained share of each layer are
logged; a loss that is not finite stops the run before it touches a weight.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler

from diekae.training.config import TrainingConfig
from diekae.training.objectives import Objective, Sums, unexplained

Monitor = Callable[[], dict[str, float]]
"""Measures something at each validation, for the log: ``{"recovered": 0.5}``."""


class NotFinite(FloatingPointError):
    """A gradient was NaN or infinite: training stopped before the step; the last good checkpoint stands."""


class LastStep(TrainerCallback):
    """Validates and saves after the last step too, so that it can be the best."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Find the best checkpoint of a resumed run where the run now lies; without it the next best is chosen."""
        if not _find_best(state, Path(args.output_dir)):
            state.best_metric = state.best_model_checkpoint = None

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Ask for both."""
        if state.global_step >= state.max_steps:
            control.should_evaluate = control.should_save = True


def _find_best(state: TrainerState, folder: Path) -> bool:
    """Look for the best checkpoint in the run's folder, which may have been moved or copied since it was noted.

    The Trainer would only warn of a path that is not there, and leave the bank untrained.
    """
    if state.best_model_checkpoint is None:
        return True
    best = folder / Path(state.best_model_checkpoint).name
    if best.is_dir():
        state.best_model_checkpoint = str(best)
    return best.is_dir()


class BankTrainer(Trainer):
    """Trains an :class:`Objective`; see the module's text for what differs from the Trainer."""

    def __init__(
        self, model: Objective, *args: Any, clip: float, monitor: Monitor | None = None, **kwargs: Any
    ) -> None:
        """Take the Trainer's arguments, the largest gradient norm of an encoder, and a monitor."""
        super().__init__(model, *args, **kwargs)
        self.clip, self.monitor = clip, monitor
        self.loss_is_scaled_for_ga = True
        self._seen: list[tuple[Tensor, Tensor]] = []

    def train_from(self, checkpoint: str | None) -> None:
        """Train; a run that has made its last step is only read back, for the Trainer would make one more."""
        if checkpoint is not None:
            state = TrainerState.load_from_json(str(Path(checkpoint) / "trainer_state.json"))
            if state.global_step >= self.args.max_steps:
                self.state = state
                if not _find_best(state, Path(checkpoint).parent):
                    raise FileNotFoundError(
                        f"the best checkpoint of the run in {str(Path(checkpoint).parent)!r} is missing "
                        f"({state.best_model_checkpoint}); put it back, or train anew without resuming."
                    )
                self._load_best_model()
                return
        self.train(resume_from_checkpoint=checkpoint)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """Group by the lengths that the data set knows, where that is wanted."""
        dataset: Any = self.train_dataset if train_dataset is None else train_dataset
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        batch = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return LengthGroupedSampler(batch, lengths=list(dataset.lengths))

    def get_decay_parameter_names(self, model: Any) -> list[str]:
        """Name the matrices, [N, out, in]; norms and null slots, [N, size], do not decay."""
        return [name for name, parameter in model.named_parameters() if parameter.ndim > 2]

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Tensor:
        """Count positions over accumulation and processes."""
        objective: Objective = self.accelerator.unwrap_model(self.model)
        count = torch.stack([objective.count(batch).to(device) for batch in batch_samples]).sum()
        return self.accelerator.reduce(count, "sum") if self.args.world_size > 1 else count

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """Return this process's share of the global mean, times the processes DDP averages over."""
        assert not return_outputs and num_items_in_batch is not None
        sums: Sums = model(**inputs)
        self._seen.append((sums.parts, sums.positions.detach()))
        loss: Tensor = sums.loss / num_items_in_batch * self.args.world_size
        return loss

    def _clip_grad_norm(self, model: Any) -> Tensor:
        """Clip the gradient of each encoder by its own norm; every parameter's first dimension counts encoders."""
        parameters = [p for p in model.parameters() if p.grad is not None]
        norms = torch.stack([p.grad.float().flatten(1).square().sum(1) for p in parameters]).sum(0).sqrt()
        if not bool(torch.isfinite(norms).all()):
            raise NotFinite(
                f"the gradient is not finite at step {self.state.global_step + 1} (encoders "
                f"{(~torch.isfinite(norms)).nonzero().flatten().tolist()}); no weight was changed and the last "
                "checkpoint stands. Lower the learning rate, or look for broken examples."
            )
        factors = (self.clip / (norms + 1e-6)).clamp(max=1.0)
        for parameter in parameters:
            parameter.grad.mul_(factors.view(-1, *[1] * (parameter.ndim - 1)).to(parameter.grad))
        return norms.max()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add each layer's unexplained share since the last line."""
        if "loss" in logs and self._seen:
            parts, positions = (torch.stack(values).sum(0).cpu() for values in zip(*self._seen, strict=True))
            self._seen = []
            logs.update(self._by_layer("", parts, float(positions)))
        super().log(logs, start_time)

    def _by_layer(self, prefix: str, parts: Tensor, positions: float) -> dict[str, float]:
        """Name the unexplained share of every layer, and their mean; nothing where it was not measured."""
        found = unexplained(parts, positions)
        if found is None:
            return {}
        shares = found.tolist()
        layers = self.accelerator.unwrap_model(self.model).layers
        named = {f"{prefix}unexplained/layer_{n}": share for n, share in zip(layers, shares, strict=True)}
        return {**named, f"{prefix}unexplained/mean": sum(shares) / len(shares)}

    @torch.no_grad()
    def evaluate(self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval") -> Any:  # noqa: ARG002
        """Return the validation loss over all processes, each layer's share, and what the monitor measures."""
        dataset: Any = self.eval_dataset if eval_dataset is None else eval_dataset
        objective: Objective = self.accelerator.unwrap_model(self.model)
        objective.eval()
        rank, world = self.args.process_index, self.args.world_size
        own = torch.utils.data.Subset(dataset, range(rank, len(dataset), world))
        total: Tensor | None = None
        for batch in DataLoader(own, self.args.per_device_eval_batch_size, collate_fn=dataset.collate):
            sums = objective(**self._prepare_inputs(batch))
            shape = sums.parts.shape
            flat = sums.loss[None], sums.positions[None], sums.parts.flatten()
            found = torch.cat([part.double().cpu() for part in flat])
            total = found if total is None else total + found
        assert total is not None, "there is at least one validation example a process"
        if world > 1:
            total = self.accelerator.reduce(total.to(self.args.device), "sum").cpu()
        objective.train()
        metrics = {f"{metric_key_prefix}_loss": float(total[0] / total[1])}
        metrics |= self._by_layer(f"{metric_key_prefix}_", total[2:].reshape(shape), float(total[1]))
        if self.monitor is not None:
            metrics |= {f"{metric_key_prefix}_{name}": value for name, value in self.monitor().items()}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def arguments(
    config: TrainingConfig, folder: Path, steps: int, drop_last: bool, device: torch.device
) -> TrainingArguments:
    """Translate a training configuration into the Trainer's arguments.

    ``drop_last`` leaves an epoch's incomplete last batch out: several processes would fill it up with examples of
    their own choice, and no longer do what one does. ``device`` is where the bank stands, beside its decoder: left to
    itself the Trainer would move bank and batches to a GPU and leave the decoder behind.
    """
    every = math.ceil(steps / config.evaluations)
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine_warmup_with_min_lr",
        lr_scheduler_kwargs={
            "min_lr": config.final_learning_rate,
            "warmup_lr_rate": config.start_learning_rate / config.learning_rate,
        },
        warmup_steps=math.ceil(config.warmup * steps),
        weight_decay=config.weight_decay,
        adam_beta1=config.betas[0],
        adam_beta2=config.betas[1],
        max_grad_norm=config.clip or 1e9,
        bf16=False,  # the Trainer's autocast would take the frozen decoder along; the bank has its own
        logging_steps=config.logging_steps,
        logging_nan_inf_filter=False,
        report_to=[],
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        remove_unused_columns=False,
        dataloader_drop_last=drop_last,
        train_sampling_strategy="group_by_length" if config.group_by_length else "random",
        seed=config.seed,
        data_seed=config.seed,
        use_cpu=device.type == "cpu",
        ddp_find_unused_parameters=False,
        disable_tqdm=False,
    )


def last_whole_checkpoint(folder: Path) -> str | None:
    """Find the newest checkpoint that was written to its end.

    The Trainer writes ``trainer_state.json`` last, so a checkpoint without a readable one was cut off by a kill. It is
    left where it is: the resumed run comes by the same step and writes it anew.
    """
    steps = {path.name.removeprefix("checkpoint-"): path for path in folder.glob("checkpoint-*")}
    for step in sorted((step for step in steps if step.isdigit()), key=int, reverse=True):
        try:
            json.loads((steps[step] / "trainer_state.json").read_text())
        except (OSError, ValueError):
            continue
        return str(steps[step])
    return None
