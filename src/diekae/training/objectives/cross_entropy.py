"""The objective ``cross_entropy``: NLL of the targets through the decoder (paper, section 3.3)."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from diekae.data.batch import IGNORED, Batch
from diekae.model import DiekaeModel
from diekae.training.objectives.base import LossSums, Objective
from diekae.training.objectives.reading import injected_logits, input_fields, read_knowledge


class CrossEntropyObjective(Objective):
    """Cross-entropy of the target through the decoder. Gradients reach down to the lowest injection."""

    def __init__(self, model: DiekaeModel, *, gradient_checkpointing: bool = False) -> None:
        """Register the bank; ``gradient_checkpointing`` as in :class:`TrainingConfig`."""
        super().__init__(model)
        self.gradient_checkpointing = gradient_checkpointing

    def count(self, batch: dict[str, Tensor]) -> Tensor:
        """Count target tokens."""
        return (batch["labels"] != IGNORED).sum()

    def keep(self, batch: Batch) -> dict[str, Tensor]:
        """Return what encoders read of K; ValueError if they read embeddings alone, so that a cache saves nothing."""
        if self.model.bank.encoder.reads == "embeddings":
            raise ValueError(
                f"encoder={self.model.config.encoder!r} reads embeddings alone, so that the decoder does not run over "
                "K in training by cross-entropy and a cache saves nothing; leave cache out."
            )
        return {**input_fields(batch), **read_knowledge(self.model.attached, batch)}

    def forward(self, **batch: Any) -> LossSums:
        """Inject, and score the target."""
        logits, labels = self._injected_logits(Batch(**batch))  # type: ignore[typeddict-item]
        loss = F.cross_entropy(logits.float(), labels, reduction="sum")
        return LossSums(loss, torch.tensor(len(labels), device=loss.device), self._no_parts())

    def _injected_logits(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return logits and targets; see :func:`injected_logits`."""
        checkpointing = self.gradient_checkpointing and torch.is_grad_enabled()
        return injected_logits(self.model, batch, gradient_checkpointing=checkpointing)
