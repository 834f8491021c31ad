"""The run over x with injection, with gradients to the bank.

Shapes: B rows, T columns of x.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from diekae.data.batch import IGNORED, Batch, knowledge_ids, run_of
from diekae.encoders import KnowledgeBatch
from diekae.inject.injection import Injection
from diekae.model import DiekaeModel
from diekae.run.score import logits_at
from diekae.training.objectives.reading import prepare_batch


def injected_logits(
    model: DiekaeModel, batch: Batch, prepared: KnowledgeBatch | None = None, *, gradient_checkpointing: bool = False
) -> tuple[Tensor, Tensor]:
    """Run the decoder over x with injection, with gradients to the prepared knowledge.

    Args:
        model: Decoder and bank.
        batch: A laid-out batch.
        prepared: What is injected; None prepares the batch's own knowledge.
        gradient_checkpointing: Whether the backward pass computes the decoder's blocks again, to take less memory.

    Returns:
        The logits that predict the targets, [labels, vocabulary], and the target tokens, [labels].
    """
    injection = injection_of(model, batch, prepare_batch(model, batch) if prepared is None else prepared)
    with injection.active(), injection.checkpointed() if gradient_checkpointing else nullcontext():
        ids, offset = run_of(batch, knowledge=False)
        logits = logits_at(model.decoder, ids, batch["labels"], offset)
    return logits, batch["labels"][batch["labels"] != IGNORED]


def injection_of(model: DiekaeModel, batch: Batch, prepared: KnowledgeBatch) -> Injection:
    """Return the injection for one run over all columns of x of a laid-out batch."""
    receives, valid = batch["receives"], batch["input_mask"]
    no_rows, hidden = receives.new_zeros(len(receives)), torch.zeros_like(receives)
    if prepared.anchor is not None and model.config.anchor == "shared":
        hidden = torch.arange(receives.shape[1], device=receives.device)[None] < prepared.anchor.mask.sum(1)[:, None]
    return Injection(model.attached, prepared, receives, valid, no_rows, hidden)


def input_fields(batch: Batch) -> dict[str, Tensor]:
    """Return the fields of a batch that the run over x needs, and K's tokens."""
    names = ["knowledge_mask", "input_ids", "input_mask", "receives", "labels"]
    names += [name for name in batch if name.startswith("document_")]
    return {**{name: batch[name] for name in names}, "knowledge_ids": knowledge_ids(batch)}  # type: ignore[literal-required]
