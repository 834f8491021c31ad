"""The objective that adapters are trained on: edits are learned, everything else stays as it is.

loss  =  cross-entropy of learned tokens  +  λ · KL(D(x) ‖ injected run) at all other tokens      (nats a token, both)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diekae.data.batch import IGNORED, Batch, collate, run_of
from diekae.data.prompt import Prompt
from diekae.edit.adapter import EditAdapter
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


class EditRows(list[list[EditRow]]):
    """Items of several rows each, so that every batch has rows of all kinds."""

    def collate(self, items: Sequence[list[EditRow]]) -> dict[str, Tensor]:
        """Lay a batch out; ``learned`` marks the learned labels, bool [B, T]."""
        rows = [row for item in items for row in item]
        batch: Any = collate([row.prompt for row in rows], scope="all", anchor="shared")
        is_label = batch["labels"] != IGNORED
        limit = torch.tensor([[row.learned] for row in rows])
        return {**batch, "learned": is_label & (is_label.long().cumsum(1) <= limit)}


class EditObjective(nn.Module):
    """The loss above; it counts and sums as :class:`diekae.training.objectives.Objective`."""

    layers: tuple[int, ...] = ()
    """No losses are reported by layer."""

    def __init__(self, model: DiekaeModel, adapter: EditAdapter, locality: float) -> None:
        """Register the adapter's parameters as this module's only ones.

        Args:
            model: Decoder and bank, which must not require gradients.
            adapter: Changes prepared knowledge before it is injected.
            locality: λ, weight of the KL.
        """
        super().__init__()
        self.adapter, self.locality = adapter, locality
        self._outside = {"model": model}  # a dict hides it from nn.Module

    def count(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the number of learned tokens."""
        return batch["learned"].sum()

    def forward(self, **batch: Any) -> LossSums:
        """Return the sum over learned tokens, with the KL in proportion."""
        marks, model = batch.pop("learned"), self._outside["model"]
        laid_out = Batch(**batch)  # type: ignore[typeddict-item]
        with torch.no_grad():
            prepared = prepare_batch(model, laid_out)
        logits, labels = injected_logits(model, laid_out, self.adapter(prepared))
        is_label = laid_out["labels"] != IGNORED
        learned = marks[is_label]
        loss = F.cross_entropy(logits[learned].float(), labels[learned], reduction="sum")
        if bool((~learned).any()) and self.locality:
            divergence = self._divergence(laid_out, is_label & ~marks, logits[~learned])
            loss = loss + self.locality * divergence * learned.sum()
        return LossSums(loss, learned.sum(), torch.zeros(0, 2, dtype=torch.float64, device=loss.device))

    def _divergence(self, batch: Batch, staying: Tensor, logits: Tensor) -> Tensor:
        """Return the KL to the bare decoder in nats a token, over the labels that must stay, bool [B, T]."""
        labels = batch["labels"].masked_fill(~staying, IGNORED)
        with torch.no_grad():
            ids, offset = run_of(batch, knowledge=False)
            bare = logits_at(self._outside["model"].decoder, ids, labels, offset).float().log_softmax(-1)
        return F.kl_div(logits.float().log_softmax(-1), bare, log_target=True, reduction="batchmean")
