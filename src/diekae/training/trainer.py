"""The trainer of all objectives: the Hugging Face Trainer, with five differences.

1. Losses are sums over positions, divided by the count of the *global* batch, so that accumulation and several
   processes change nothing.
2. Gradients are clipped for each encoder separately.
3. The unexplained share of each layer is logged.
4. A gradient that is not finite stops the run before it changes a weight.
5. A checkpoint has a manifest, written last, so that an interrupted or damaged one is recognised.
"""

import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from transformers import Trainer, TrainerState, TrainingArguments
from transformers.utils import SAFE_WEIGHTS_NAME

from diekae.data.batch import to_device
from diekae.training.callbacks import Patience
from diekae.training.checkpoints import checkpoint_errors, find_best, write_manifest
from diekae.training.config import TrainingConfig
from diekae.training.dataset import GroupedByLength
from diekae.training.objectives import LossSums, Objective, unexplained

Monitor = Callable[[], dict[str, float]]
"""Measures something at each validation, for the log: ``{"recovered": 0.5}``."""


class NotFinite(FloatingPointError):
    """A gradient was NaN or infinite. No weight was changed, and the last checkpoint is good."""


class BankTrainer(Trainer):
    """Trains an :class:`Objective`; the module's docstring says what differs from the Trainer.

    Three private methods of the Trainer are overridden, because no public hook replaces them.
    ``_clip_grad_norm``: the callback ``on_pre_optimizer_step`` runs after clipping, and cannot set the norm that is
    logged. ``_get_train_sampler``: the Trainer reads lengths only from a ``datasets.Dataset``, and draws the order from
    the global generator. ``_save_checkpoint``: no callback runs before it or when it fails.
    ``tests/training/test_trainer_base.py`` fails when Transformers changes them.
    """

    def __init__(
        self, model: Objective, *args: Any, clip: float, monitor: Monitor | None = None, **kwargs: Any
    ) -> None:
        """Take the Trainer's arguments, the largest gradient norm of an encoder, and a monitor."""
        super().__init__(model, *args, **kwargs)
        self.clip, self.monitor = clip, monitor
        self.loss_is_scaled_for_ga = True
        self._logged: list[tuple[Tensor, Tensor]] = []
        """Parts and positions of each batch since the last log line."""

    def train_from(self, checkpoint: str | None) -> None:
        """Train from a checkpoint, or from the beginning if None.

        If the run of the checkpoint has ended, by its steps or by early stopping, only load its best checkpoint: the
        Trainer would go on training.

        Raises:
            FileNotFoundError: The run has ended, and its best checkpoint is missing or damaged.
        """
        if checkpoint is None:
            self.train()
            return
        state = TrainerState.load_from_json(str(Path(checkpoint) / "trainer_state.json"))
        callbacks = self.callback_handler.callbacks
        stopped_early = any(isinstance(callback, Patience) and callback.exhausted(state) for callback in callbacks)
        if state.global_step < self.args.max_steps and not stopped_early:
            self.train(resume_from_checkpoint=checkpoint)
            return
        self.state = state
        if not find_best(state, Path(checkpoint).parent):
            raise FileNotFoundError(
                f"the best checkpoint of the run in {str(Path(checkpoint).parent)!r} is missing or damaged "
                f"({state.best_model_checkpoint}); put it back, or train again without resuming."
            )
        assert state.best_model_checkpoint is not None, "a finished run has a best checkpoint"
        objective: Any = self.model
        load_model(objective, Path(state.best_model_checkpoint) / SAFE_WEIGHTS_NAME)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save a checkpoint, and then its manifest; OSError if it cannot be written."""
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        with checkpoint_errors(folder):
            if self.args.should_save:
                shutil.rmtree(folder, ignore_errors=True)  # an interrupted one of the same step
            self.accelerator.wait_for_everyone()
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()  # each process writes a file of its own
            if self.args.should_save:
                write_manifest(folder)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """Group by the data set's lengths, if the arguments say so."""
        dataset: Any = self.train_dataset if train_dataset is None else train_dataset
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        step_size = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        # At the beginning of an epoch, and while a resumed run skips the examples it has seen, `state.epoch` is the
        # number of finished epochs, with the share of the present one after the decimal point.
        return GroupedByLength(dataset.lengths, step_size, self.args.seed, lambda: int(self.state.epoch or 0))

    def get_decay_parameter_names(self, model: Any) -> list[str]:
        """Name the matrices, [N, out, in]. Norms and null slots, [N, size], do not decay."""
        return [name for name, parameter in model.named_parameters() if parameter.ndim > 2]

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor]:
        """Take the batches of one step, and count their positions over accumulation and processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        objective: Objective = self.accelerator.unwrap_model(self.model)
        count = torch.stack([objective.count(batch).to(device) for batch in batches]).sum()
        return batches, self.accelerator.reduce(count, "sum") if self.args.world_size > 1 else count

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """Return this process's share of the global mean, times the number of processes that DDP averages over."""
        assert not return_outputs and num_items_in_batch is not None
        sums: LossSums = model(**inputs)
        self._logged.append((sums.parts, sums.positions.detach()))
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
                "checkpoint is good. Lower the learning rate, or look for broken examples."
            )
        factors = (self.clip / (norms + 1e-6)).clamp(max=1.0)
        for parameter in parameters:
            parameter.grad.mul_(factors.view(-1, *[1] * (parameter.ndim - 1)).to(parameter.grad))
        return norms.max()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add each layer's unexplained share since the last line."""
        if "loss" in logs and self._logged:
            parts, positions = (torch.stack(values).sum(0).cpu() for values in zip(*self._logged, strict=True))
            self._logged = []
            logs.update(self._by_layer("", parts, float(positions)))
        super().log(logs, start_time)

    def _by_layer(self, prefix: str, parts: Tensor, positions: float) -> dict[str, float]:
        """Name the unexplained share of every layer, and their mean; empty where it was not measured."""
        shares = unexplained(parts, positions)
        if shares is None:
            return {}
        values = shares.tolist()
        layers = self.accelerator.unwrap_model(self.model).layers
        named = {f"{prefix}unexplained/layer_{layer}": share for layer, share in zip(layers, values, strict=True)}
        return {**named, f"{prefix}unexplained/mean": sum(values) / len(values)}

    @torch.no_grad()
    def evaluate(self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval") -> Any:  # noqa: ARG002
        """Return the validation loss over all processes, each layer's share, and what the monitor measures."""
        sums = self._validation_sums(self.eval_dataset if eval_dataset is None else eval_dataset)
        positions = float(sums.positions)
        metrics = {f"{metric_key_prefix}_loss": float(sums.loss / sums.positions)}
        metrics |= self._by_layer(f"{metric_key_prefix}_", sums.parts, positions)
        if self.monitor is not None:
            metrics |= {f"{metric_key_prefix}_{name}": value for name, value in self.monitor().items()}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _validation_sums(self, dataset: Any) -> LossSums:
        """Add up a data set over all batches and processes, in fp64."""
        objective: Objective = self.accelerator.unwrap_model(self.model)
        objective.eval()
        rank, world = self.args.process_index, self.args.world_size
        part: Any = Subset(dataset, range(rank, len(dataset), world))
        total: Tensor | None = None
        for batch in DataLoader(part, self.args.per_device_eval_batch_size, collate_fn=dataset.collate):
            sums = objective(**to_device(batch, self.args.device))
            values = torch.cat(
                [v.double().cpu() for v in (sums.loss[None], sums.positions[None], sums.parts.flatten())]
            )
            total = values if total is None else total + values
        assert total is not None, "there is at least one validation example a process"
        if world > 1:
            total = self.accelerator.reduce(total.to(self.args.device), "sum").cpu()
        objective.train()
        return LossSums(total[0], total[1], total[2:].reshape(sums.parts.shape))


def arguments(
    config: TrainingConfig, folder: Path, steps: int, drop_last: bool, device: torch.device
) -> TrainingArguments:
    """Translate a training configuration into the Trainer's arguments.

    ``drop_last`` leaves out an epoch's incomplete last batch: several processes would fill it with examples of their
    own choice, and no longer do what one process does. ``device`` is the device of the bank and its decoder: by
    default the Trainer would move the bank and the batches to a GPU, but not the decoder.
    """
    interval = math.ceil(steps / config.evaluations)
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
        bf16=False,  # the Trainer's autocast would include the frozen decoder; the bank has its own
        logging_steps=config.logging_steps,
        logging_nan_inf_filter=False,
        report_to=[],
        eval_strategy="steps",
        eval_steps=interval,
        save_strategy="steps",
        save_steps=interval,
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
