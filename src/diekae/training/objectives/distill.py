"""The objective ``distill``: Kullback–Leibler divergence from the injected run to D(K, x)."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from diekae.data.batch import Batch, run_of
from diekae.model import DiekaeModel
from diekae.run.score import logits_at
from diekae.training.objectives.base import LossSums
from diekae.training.objectives.cross_entropy import CrossEntropyObjective
from diekae.training.objectives.reading import input_fields, position_ids, read_in_run


class DistillObjective(CrossEntropyObjective):
    """KL divergence to the distribution of D(K, x), over the target's positions, or over x's too."""

    def __init__(self, model: DiekaeModel, *, whole_input: bool = False, gradient_checkpointing: bool = False) -> None:
        """Register the bank; the options are as in :class:`TrainingConfig`."""
        super().__init__(model, gradient_checkpointing=gradient_checkpointing)
        self.whole_input = whole_input

    def count(self, batch: dict[str, Tensor]) -> Tensor:
        """Count the tokens whose distributions are compared."""
        return super().count(self._labelled(batch))

    def _labelled(self, batch: Any) -> Any:
        """Under ``whole_input``, label x's tokens too, where a receiving column predicts them."""
        if not self.whole_input or "teacher" in batch:
            return batch
        predicted = torch.zeros_like(batch["receives"])
        predicted[:, 1:] = batch["receives"][:, :-1]
        return {**batch, "labels": torch.where(predicted & batch["input_mask"], batch["input_ids"], batch["labels"])}

    @torch.no_grad()
    def keep(self, batch: Batch) -> dict[str, Tensor]:
        """Run D(K, x); return its logits, and what encoders read of K in the same run."""
        batch = self._labelled(batch)
        model, attached = self.model, self.model.attached
        ids, offset = run_of(batch, knowledge=True)
        with attached.keeping() as kept:
            teacher = logits_at(model.decoder, ids, batch["labels"], offset, position_ids=position_ids(attached, batch))
        read = {} if model.bank.encoder.reads == "embeddings" else read_in_run(attached, batch, kept)
        return {**input_fields(batch), **read, "teacher": teacher}

    def forward(self, **batch: Any) -> LossSums:
        """Inject, and compare with the run that has K in its prompt."""
        fields: Any = batch if "teacher" in batch else self.keep(Batch(**batch))  # type: ignore[typeddict-item]
        logits, labels = self._injected_logits(fields)
        divergence = F.kl_div(
            logits.float().log_softmax(-1), fields["teacher"].float().log_softmax(-1), log_target=True, reduction="sum"
        )
        return LossSums(divergence, torch.tensor(len(labels), device=divergence.device), self._no_parts())
