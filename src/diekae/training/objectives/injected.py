"""The run over x with injection, with gradients to the bank.

Shapes: B rows, T columns of x, V embedding width.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from diekae.data.batch import IGNORED, Batch, run_of
from diekae.encoders import KnowledgeBatch
from diekae.inject.batch_columns import knowledge_columns
from diekae.inject.batch_slots import join_documents, make_slots, read_apart, read_knowledge
from diekae.inject.injection import Injection
from diekae.model import DiekaeModel
from diekae.run.score import logits_at


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


def prepare_batch(model: DiekaeModel, batch: Batch | dict[str, Tensor]) -> KnowledgeBatch:
    """Prepare the knowledge of a batch, with gradients to the bank and none to the decoder.

    The batch may hold, or be, what :meth:`Objective.keep` has computed of K already.
    """
    fields: Any = batch
    own_anchor = model.config.anchor == "own"
    if "document_ids" in fields and model.attached.by_attention:
        states = read_apart(model.attached, fields)
        documents = make_slots(model.attached, states, fields["document_mask"], own_anchor)
        return join_documents(documents, fields["document_row"], model.bank.encoder.sizes.sharpness)
    if model.bank.encoder.reads != "embeddings":
        read = fields if "knowledge_states" in fields else read_knowledge(model.attached, fields)
        if model.attached.by_attention:
            return make_slots(model.attached, read, batch["knowledge_mask"], own_anchor)
        return model.bank.prepare(read["knowledge_states"], batch["knowledge_mask"])
    ids = fields["knowledge_ids"] if "knowledge_ids" in fields else knowledge_ids(fields)
    return model.bank.prepare(embedded(model, ids), batch["knowledge_mask"])


@torch.no_grad()
def embedded(model: DiekaeModel, ids: Tensor) -> Tensor:
    """Return what an encoder of embeddings reads of tokens [B, T], in the bank's type: [1, B, T, V]."""
    embeddings: Tensor = model.decoder.get_input_embeddings()(ids)[None]
    return embeddings.to(model.bank.dtype)


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


def knowledge_ids(batch: Batch) -> Tensor:
    """Return K's tokens, [B, K]."""
    return torch.gather(batch["full_ids"], 1, knowledge_columns(batch, batch["full_ids"].shape[1]))
