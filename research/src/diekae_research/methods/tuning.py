"""Training of a decoder's weights on the targets, for LoRA and full fine-tuning.

The loss is the mean NLL of all target tokens, whatever the batches. The checkpoint with the lowest loss on the
validation prompts is kept.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel, TrainerCallback, set_seed

from diekae.data.batch import IGNORED, Batch, run_of
from diekae.progress import Progress
from diekae.run.score import logits_at
from diekae.training.callbacks import Stopwatch, seconds_of
from diekae.training.checkpoints import last_whole_checkpoint
from diekae.training.config import TrainingConfig
from diekae.training.dataset import PromptDataset
from diekae.training.objectives import LossSums
from diekae.training.run import build_trainer
from diekae.training.trainer import BankTrainer, NotFinite
from diekae_research.methods.base import Cost, Task


class Tuned(nn.Module):
    """The trainable weights of a decoder and the loss of the targets; checkpoints hold these weights alone."""

    layers: tuple[int, ...] = ()
    """No losses are reported by layer."""

    def __init__(self, decoder: PreTrainedModel, knowledge: bool) -> None:
        """Register the parameters that require gradients.

        Args:
            decoder: The decoder that is trained.
            knowledge: Whether K is in the prompt.
        """
        super().__init__()
        self._outside = {"decoder": decoder}  # a dict hides it from nn.Module's registration
        self.knowledge = knowledge
        for name, parameter in decoder.named_parameters():
            if parameter.requires_grad:
                self.register_parameter(name.replace(".", "/"), parameter)

    def train(self, mode: bool = True) -> Tuned:
        """Set the mode of the decoder too, for its dropout."""
        super().train(mode)
        self._outside["decoder"].train(mode)
        return self

    def count(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the number of target tokens."""
        return (batch["labels"] != IGNORED).sum()

    def forward(self, **batch: Any) -> LossSums:
        """Return the summed NLL of the targets."""
        laid_out = Batch(**batch)  # type: ignore[typeddict-item]
        labels = laid_out["labels"]
        ids, offset = run_of(laid_out, self.knowledge)
        logits = logits_at(self._outside["decoder"], ids, labels, offset)
        targets = labels[labels != IGNORED]
        loss = F.cross_entropy(logits.float(), targets, reduction="sum")
        no_layers = torch.zeros(0, 2, dtype=torch.float64, device=loss.device)
        return LossSums(loss, torch.tensor(len(targets), device=loss.device), no_layers)


class TunedTrainer(BankTrainer):
    """The banks' trainer for other weights: matrices decay, and the norm of all gradients together is clipped."""

    def get_decay_parameter_names(self, model: Any) -> list[str]:
        """Return the names of the matrices."""
        return [name for name, parameter in model.named_parameters() if parameter.ndim > 1]

    def _clip_grad_norm(self, model: Any) -> Tensor:
        """Clip the norm of all gradients together.

        Raises:
            NotFinite: A gradient is not finite.
        """
        norm: Tensor = nn.utils.clip_grad_norm_(model.parameters(), self.clip)
        if not bool(torch.isfinite(norm)):
            raise NotFinite(
                f"the gradient is not finite at step {self.state.global_step + 1}; no weight was changed and the last "
                "checkpoint stands. Lower the learning rate, or look for broken examples."
            )
        return norm


class ReportProgress(TrainerCallback):
    """Reports the steps of a training run."""

    def __init__(self, name: str, progress: Progress) -> None:
        """Keep the name of the work and the function that is called."""
        self.name, self.progress = name, progress

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Report."""
        self.progress(self.name, state.global_step, state.max_steps)


def cost_of(module: nn.Module, seconds: float, config: TrainingConfig, examples: int) -> Cost:
    """Return the cost of training a module on some examples."""
    parameters = sum(parameter.numel() for parameter in module.parameters())
    batch = config.batch_size * config.gradient_accumulation
    epochs = config.epochs if config.max_steps <= 0 else config.max_steps * batch / examples
    return Cost(parameters, seconds, epochs)


def tune(name: str, decoder: PreTrainedModel, task: Task, config: TrainingConfig) -> Cost:
    """Train the parameters of a decoder that require gradients, and load the best checkpoint into it.

    Args:
        name: The method; its checkpoints go into a folder of this name.
        decoder: A copy that belongs to the method.
        task: The prompts.
        config: The training configuration.

    Raises:
        ValueError: There is no prompt to train on, or an example does not fit the window.
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
    module = Tuned(decoder, task.knowledge)
    callbacks = [Stopwatch(folder, task.resume), ReportProgress(f"training {name}", task.progress)]
    trainer = build_trainer(module, data, config, folder, None, callbacks, TunedTrainer)
    trainer.train_from(last_whole_checkpoint(folder) if task.resume else None)
    module.eval()
    return cost_of(module, seconds_of(folder), config, len(task.train))
