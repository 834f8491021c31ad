"""The objective that adapters and weight edits are trained on: edits are learned, everything else stays as it is.

loss  =  cross-entropy of learned tokens  +  λ · KL(D(x) ‖ injected run) at all other tokens      (nats a token, both)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from diekae.data.batch import IGNORED, Batch, collate, run_of
from diekae.data.prompt import Prompt
from diekae.encoders import KnowledgeBatch
from diekae.model import DiekaeModel
from diekae.run.score import logits_at
from diekae.training.objectives import LossSums, injected_logits, prepare_batch


class EditRow(NamedTuple):
    """A row of a batch: the first tokens of its target are learned, the others must stay as they are."""

    prompt: Prompt
    """Knowledge, input and target."""
    learned: int
    """Number of learned tokens; 0 for a row that must stay as it is."""


def learned_row(prompt: Prompt, behind: tuple[int, ...] = ()) -> EditRow:
    """Return a row whose target is learned; tokens behind the target must stay."""
    return EditRow(replace(prompt, target=prompt.target + behind), len(prompt.target))


def locality_row(prompt: Prompt) -> EditRow:
    """Return a row that must stay: at each token of a prompt's input, and behind the last one."""
    ids = prompt.input
    return EditRow(replace(prompt, input=ids[:1], target=(*ids[1:], ids[-1])), 0)


class EditRows(Dataset[list[EditRow]]):
    """Items of several rows each, so that every batch has rows of all kinds."""

    def __init__(self, items: Sequence[list[EditRow]]) -> None:
        """Keep the items."""
        self.items = items

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.items)

    def __getitem__(self, index: int) -> list[EditRow]:
        """Return one item."""
        return self.items[index]

    def collate(self, items: Sequence[list[EditRow]]) -> dict[str, Tensor]:
        """Lay a batch out; ``learned`` marks the learned labels, bool [B, T]."""
        rows = [row for item in items for row in item]
        batch: Any = collate([row.prompt for row in rows], scope="all", anchor="shared")
        is_label = batch["labels"] != IGNORED
        limit = torch.tensor([[row.learned] for row in rows])
        return {**batch, "learned": is_label & (is_label.long().cumsum(1) <= limit)}


class EditObjective(nn.Module):
    """The loss above; it counts and sums as :class:`diekae.training.objectives.Objective`."""

    def __init__(
        self,
        model: DiekaeModel,
        trained: nn.Module,
        locality: float,
        change: Callable[[KnowledgeBatch], KnowledgeBatch] | None = None,
    ) -> None:
        """Register the trained module's parameters as this module's only ones.

        Args:
            model: Decoder and bank.
            trained: The bank, or the adapter; a bank that is not trained must not require gradients.
            locality: λ, weight of the KL.
            change: Changes prepared knowledge before it is injected.
        """
        super().__init__()
        self.trained, self.locality = trained, locality
        self._outside: dict[str, Any] = {"model": model, "change": change}  # a dict hides them from nn.Module

    @property
    def layers(self) -> tuple[int, ...]:
        """Return the layers that losses are reported for: a bank's; none for other modules."""
        model: DiekaeModel = self._outside["model"]
        return model.bank.layers if self.trained is model.bank else ()

    def count(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the number of learned tokens."""
        return batch["learned"].sum()

    def forward(self, **batch: Any) -> LossSums:
        """Return the sum over learned tokens, with the KL in proportion."""
        marks, model, change = batch.pop("learned"), self._outside["model"], self._outside["change"]
        laid_out = Batch(**batch)  # type: ignore[typeddict-item]
        with torch.set_grad_enabled(change is None and torch.is_grad_enabled()):
            prepared = prepare_batch(model, laid_out)
        logits, labels = injected_logits(model, laid_out, change(prepared) if change else prepared)
        is_label = laid_out["labels"] != IGNORED
        learned = marks[is_label]
        loss = F.cross_entropy(logits[learned].float(), labels[learned], reduction="sum")
        if bool((~learned).any()) and self.locality:
            divergence = self._divergence(laid_out, is_label & ~marks, logits[~learned])
            loss = loss + self.locality * divergence * learned.sum()
        return LossSums(loss, learned.sum(), torch.zeros(len(self.layers), 2, dtype=torch.float64, device=loss.device))

    def _divergence(self, batch: Batch, staying: Tensor, logits: Tensor) -> Tensor:
        """Return the KL to the bare decoder in nats a token, over the labels that must stay, bool [B, T]."""
        labels = batch["labels"].masked_fill(~staying, IGNORED)
        with torch.no_grad():
            ids, offset = run_of(batch, knowledge=False)
            bare = logits_at(self._outside["model"].decoder, ids, labels, offset).float().log_softmax(-1)
        return F.kl_div(logits.float().log_softmax(-1), bare, log_target=True, reduction="batchmean")
