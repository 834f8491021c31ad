"""Training weights of a decoder on the targets: what LoRA and full fine-tuning have in common.

The loss is the summed NLL of the targets' tokens over their number, whatever the batches; the checkpoint with the
lowest loss on the validation prompts is kept.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel, set_seed

from diekae.data.prompt import IGNORED, Batch, run_of
from diekae.run.score import logits_at
from diekae.training.config import TrainingConfig
from diekae.training.dataset import PromptDataset
from diekae.training.objectives import Sums
from diekae.training.run import build_trainer
from diekae.training.stopwatch import Stopwatch
from diekae.training.trainer import BankTrainer, NotFinite, last_whole_checkpoint
from diekae_research.methods.base import Cost, Task


class Tuned(nn.Module):
    """The trainable weights of a decoder, and the loss of the targets; the rest of the decoder is no part of it.

    So a checkpoint holds what is trained and nothing else.
    """

    layers: tuple[int, ...] = ()
    """Nothing is reported by layer."""

    def __init__(self, decoder: PreTrainedModel, knowledge: bool) -> None:
        """Hold the parameters that want a gradient.

        Args:
            decoder: What is trained.
            knowledge: Whether K stands in the prompt.
        """
        super().__init__()
        self._outside = {"decoder": decoder}  # a dict hides it from nn.Module's registration
        self.knowledge = knowledge
        for name, parameter in decoder.named_parameters():
            if parameter.requires_grad:
                self.register_parameter(name.replace(".", "/"), parameter)

    def train(self, mode: bool = True) -> Tuned:
        """Switch the decoder's dropout too."""
        super().train(mode)
        self._outside["decoder"].train(mode)
        return self

    def count(self, batch: dict[str, Tensor]) -> Tensor:
        """Count target tokens."""
        return (batch["labels"] != IGNORED).sum()

    def forward(self, **batch: Any) -> Sums:
        """Return the summed NLL of the targets."""
        laid_out = Batch(**batch)  # type: ignore[typeddict-item]
        labels = laid_out["labels"]
        ids, offset = run_of(laid_out, self.knowledge)
        logits = logits_at(self._outside["decoder"], ids, labels, offset)
        wanted = labels[labels != IGNORED]
        loss = F.cross_entropy(logits.float(), wanted, reduction="sum")
        nothing = torch.zeros(0, 2, dtype=torch.float64, device=loss.device)
        return Sums(loss, torch.tensor(len(wanted), device=loss.device), nothing)


class TunedTrainer(BankTrainer):
    """The trainer of banks, for weights that are no encoders: matrices decay, and one norm is clipped."""

    def get_decay_parameter_names(self, model: Any) -> list[str]:
        """Name the matrices."""
        return [name for name, parameter in model.named_parameters() if parameter.ndim > 1]

    def _clip_grad_norm(self, model: Any) -> Tensor:
        """Clip the norm of all gradients together."""
        norm: Tensor = nn.utils.clip_grad_norm_(model.parameters(), self.clip)
        if not bool(torch.isfinite(norm)):
            raise NotFinite(
                f"the gradient is not finite at step {self.state.global_step + 1}; no weight was changed and the last "
                "checkpoint stands. Lower the learning rate, or look for broken examples."
            )
        return norm


class Watch(Stopwatch):
    """Measures the seconds of a run, and tells how far it is."""

    def __init__(self, name: str, folder: Path, task: Task) -> None:
        """Start the clock.

        Args:
            name: The method, for the display.
            folder: The run's.
            task: Whose progress is told.
        """
        super().__init__(folder, task.resume)
        self.name, self.progress = name, task.progress
        self.bar = Progress(console=Console(stderr=True), disable=task.progress is not None)
        self.line = self.bar.add_task(f"training {name}")

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Show the bar."""
        super().on_train_begin()
        self.bar.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Tell."""
        self.bar.update(self.line, completed=state.global_step, total=state.max_steps)
        if self.progress is not None:
            self.progress(f"training {self.name}", state.global_step, state.max_steps)

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Stop."""
        super().on_train_end()
        self.bar.stop()

    def cost(self, module: nn.Module, config: TrainingConfig, examples: int) -> Cost:
        """Return what training a module has cost."""
        own = sum(parameter.numel() for parameter in module.parameters())
        batch = config.batch_size * config.gradient_accumulation
        return Cost(own, self.seconds, config.epochs if config.max_steps <= 0 else config.max_steps * batch / examples)


def tune(name: str, decoder: PreTrainedModel, task: Task, config: TrainingConfig) -> Cost:
    """Train the parameters of a decoder that want a gradient, and leave the best on validation in it.

    Args:
        name: The method; its checkpoints go into a folder of this name.
        decoder: A copy that belongs to the method.
        task: The prompts.
        config: How.

    Raises:
        ValueError: There is nothing to train on, or an example does not fit the window.
        diekae.training.trainer.NotFinite: A gradient was not finite.
    """
    if not task.train or not task.validation:
        raise ValueError(
            f"method {name!r} got {len(task.train)} training and {len(task.validation)} validation examples; give at "
            "least one each."
        )
    set_seed(config.seed)
    anchor, folder = task.diekae.anchor, task.place(name)
    data = [PromptDataset(task.shown(part), scope="all", anchor=anchor) for part in (task.train, task.validation)]
    module, watch = Tuned(decoder, task.knowledge), Watch(name, folder, task)
    trainer = build_trainer(module, data, config, folder, None, [watch], TunedTrainer)
    trainer.train_from(last_whole_checkpoint(folder) if task.resume else None)
    module.eval()
    return watch.cost(module, config, len(task.train))
