"""What editing's parts are trained on: targets to be said, and places at which the decoder is to stay as it is.

loss  =  cross-entropy of what is taught  +  λ · KL(D(x) ‖ injected run) where it stays          (nats a token, both)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset
from transformers import TrainerCallback

from diekae.data.prompt import IGNORED, Batch, Prompt, collate, run_of
from diekae.encoders import KnowledgeBatch
from diekae.model import DiekaeModel
from diekae.progress import Progress
from diekae.run.score import logits_at
from diekae.training.objectives import Sums, injected_logits, prepare_batch


class Lesson(NamedTuple):
    """One row: the first tokens of its target are taught, at the others the decoder stays."""

    prompt: Prompt
    """Knowledge, input and target."""
    taught: int
    """Tokens of the target that are taught; 0 where all stays."""


def taught(prompt: Prompt, behind: tuple[int, ...] = ()) -> Lesson:
    """Teach a prompt's target; at tokens that stand behind it the decoder stays."""
    return Lesson(replace(prompt, target=prompt.target + behind), len(prompt.target))


def staying(prompt: Prompt) -> Lesson:
    """Keep the decoder as it is along a prompt's input, and behind its last token."""
    ids = prompt.input
    return Lesson(replace(prompt, input=ids[:1], target=(*ids[1:], ids[-1])), 0)


class Lessons(Dataset[list[Lesson]]):
    """Items of several rows each, so that every batch holds some of all kinds."""

    def __init__(self, items: Sequence[list[Lesson]]) -> None:
        """Keep the items."""
        self.items = items

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.items)

    def __getitem__(self, index: int) -> list[Lesson]:
        """Return one item."""
        return self.items[index]

    def collate(self, items: Sequence[list[Lesson]]) -> dict[str, Tensor]:
        """Lay a batch out; ``taught`` marks the labels that are, bool [B, T]."""
        rows = [lesson for item in items for lesson in item]
        batch: Any = collate([row.prompt for row in rows], scope="all", anchor="shared")
        places = (batch["labels"] != IGNORED).long().cumsum(1)
        limit = torch.tensor([[row.taught] for row in rows])
        return {**batch, "taught": (batch["labels"] != IGNORED) & (places <= limit)}


class LessonObjective(nn.Module):
    """The loss above; it counts and adds up as :class:`diekae.training.objectives.Objective`."""

    def __init__(
        self,
        model: DiekaeModel,
        trained: nn.Module,
        locality: float,
        change: Callable[[KnowledgeBatch], KnowledgeBatch] | None = None,
    ) -> None:
        """Hold what is trained as this module's only parameters.

        Args:
            model: Decoder and bank.
            trained: The bank itself, or what ``change`` is made of; a bank that is not trained must want no gradients.
            locality: λ, weight of the KL.
            change: What is done to memories before they are injected.
        """
        super().__init__()
        self.trained, self.locality = trained, locality
        self._outside: dict[str, Any] = {"model": model, "change": change}  # a dict hides them from nn.Module

    @property
    def layers(self) -> tuple[int, ...]:
        """Return the layers that are reported apart: a bank's, and none of anything else."""
        model: DiekaeModel = self._outside["model"]
        return model.bank.layers if self.trained is model.bank else ()

    def count(self, batch: dict[str, Tensor]) -> Tensor:
        """Count tokens that are taught."""
        return batch["taught"].sum()

    def forward(self, **batch: Any) -> Sums:
        """Return the sum over the taught tokens, the KL in proportion."""
        marks, model, change = batch.pop("taught"), self._outside["model"], self._outside["change"]
        laid_out = Batch(**batch)  # type: ignore[typeddict-item]
        with torch.set_grad_enabled(change is None and torch.is_grad_enabled()):
            prepared = prepare_batch(model, laid_out)
        logits, labels = injected_logits(model, laid_out, change(prepared) if change else prepared)
        there = laid_out["labels"] != IGNORED
        said = marks[there]
        loss = F.cross_entropy(logits[said].float(), labels[said], reduction="sum")
        if bool((~said).any()) and self.locality:
            loss = loss + self.locality * self._apart(laid_out, there & ~marks, logits[~said]) * said.sum()
        return Sums(loss, said.sum(), torch.zeros(len(self.layers), 2, dtype=torch.float64, device=loss.device))

    def _apart(self, batch: Batch, stays: Tensor, logits: Tensor) -> Tensor:
        """Return KL to the bare decoder in nats a token, over the labels that stay, bool [B, T]."""
        labels = batch["labels"].masked_fill(~stays, IGNORED)
        with torch.no_grad():
            ids, offset = run_of(batch, knowledge=False)
            base = logits_at(self._outside["model"].decoder, ids, labels, offset).float().log_softmax(-1)
        moved = logits.float().log_softmax(-1)
        return F.kl_div(moved, base, log_target=True, reduction="batchmean")


class Told(TrainerCallback):
    """Tells how far training is."""

    def __init__(self, what: str, progress: Progress) -> None:
        """Say what is trained."""
        self.what, self.progress = what, progress

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Tell."""
        self.progress(self.what, state.global_step, state.max_steps)
