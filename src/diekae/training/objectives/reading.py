"""Knowledge prepared from a training batch with gradients to the bank, and the run over x that it is injected into.

Shapes: N encoders, B rows, K knowledge tokens, F columns of the run with K, a columns of the longest anchor, T columns
of x, V embedding width, D what an encoder reads of one token.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from diekae.data.batch import (
    IGNORED,
    Batch,
    knowledge_columns,
    knowledge_ids,
    positions_with_knowledge,
    run_of,
    take_columns,
)
from diekae.encoders import KnowledgeBatch
from diekae.inject.attached import Attached
from diekae.inject.hooks import run
from diekae.inject.injection import Injection
from diekae.knowledge import PreparedKnowledge, batch_knowledge, split_batch
from diekae.model import DiekaeModel
from diekae.run.score import logits_at


def prepare_batch(model: DiekaeModel, batch: Batch | Mapping[str, Tensor]) -> KnowledgeBatch:
    """Prepare the knowledge of a batch, with gradients to the bank and none to the decoder.

    The batch may hold what was read of K already; see :meth:`Objective.keep`.
    """
    fields: Any = batch
    attached, bank = model.attached, model.bank
    if bank.encoder.reads == "embeddings":
        ids = fields["knowledge_ids"] if "knowledge_ids" in fields else knowledge_ids(fields)
        return bank.prepare(embedded(model, ids), fields["knowledge_mask"])
    if attached.by_attention and "document_ids" in fields:
        return _prepare_apart(attached, fields)
    read = fields if "knowledge_states" in fields else read_knowledge(attached, fields)
    if attached.by_attention:
        return make_slots(attached, read, fields["knowledge_mask"])
    return bank.prepare(read["knowledge_states"], fields["knowledge_mask"])


@torch.no_grad()
def embedded(model: DiekaeModel, ids: Tensor) -> Tensor:
    """Return what an encoder of embeddings reads of tokens [B, T], in the bank's type: [1, B, T, V]."""
    embeddings: Tensor = model.decoder.get_input_embeddings()(ids)[None]
    return embeddings.to(model.bank.dtype)


@torch.no_grad()
def read_knowledge(attached: Attached, batch: Batch) -> dict[str, Tensor]:
    """Return what encoders read of K, by a run over anchor and K alone; see :func:`read_in_run`."""
    length = int((batch["knowledge_start"] + batch["knowledge_mask"].sum(1)).max())
    positions = position_ids(attached, batch)
    positions = None if positions is None else positions[:, :length]
    with attached.keeping() as states:
        run(attached.decoder, batch["full_ids"][:, :length], attached.hookpoints, position_ids=positions)
    return read_in_run(attached, batch, states)


def position_ids(attached: Attached, batch: Batch) -> Tensor | None:
    """Return ``position_ids`` for the run with K, int64 [B, F].

    None, the decoder's own positions, where the decoder's attention does not read slots.
    """
    return positions_with_knowledge(batch) if attached.by_attention else None


def read_in_run(attached: Attached, batch: Batch, states: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return what encoders read of K in a run of a batch that begins with anchor and K.

    The states are what encoders read of every column, [B, F, D] each, from :meth:`Attached.keeping`.

    Returns:
        ``knowledge_states`` [N, B, K, D]. Where the decoder's attention reads slots, also ``anchor_states``
        [N, B, a, D], and ``anchor_mask``, which of them are real, bool [B, a].
    """
    columns = knowledge_columns(batch, states[0].shape[1])
    read = {"knowledge_states": torch.stack([take_columns(of_layer, columns) for of_layer in states])}
    if attached.by_attention:
        start = batch["knowledge_start"]
        longest = int(start.max())
        read["anchor_states"] = torch.stack([of_layer[:, :longest] for of_layer in states])
        read["anchor_mask"] = torch.arange(longest, device=start.device)[None] < start[:, None]
    return read


def make_slots(attached: Attached, read: Mapping[str, Tensor], mask: Tensor) -> KnowledgeBatch:
    """Make slots from what :func:`read_in_run` returned; ``mask`` has the real tokens of K, bool [B, K]."""
    return attached.slots(read["knowledge_states"], mask, read["anchor_states"], read["anchor_mask"])


def _prepare_apart(attached: Attached, fields: Any) -> KnowledgeBatch:
    """Prepare documents apart, then join those of each row."""
    ids, mask, start = fields["document_ids"], fields["document_mask"], fields["document_start"]
    offset = mask.sum(1) + (start if attached.own_anchor else 0)
    batch: Any = {"full_ids": ids, "knowledge_mask": mask, "knowledge_start": start, "offset": offset}
    slots = make_slots(attached, read_knowledge(attached, batch), mask)
    anchors = [row[:length] for row, length in zip(ids.tolist(), start.tolist(), strict=True)]
    rows: dict[int, list[PreparedKnowledge]] = {}
    documents = split_batch(slots, anchors)
    for row, document in zip(fields["document_row"].tolist(), documents, strict=True):
        rows.setdefault(row, []).append(document)
    return batch_knowledge([PreparedKnowledge.join(of_row) for of_row in rows.values()])


def injected_logits(
    model: DiekaeModel, batch: Batch, prepared: KnowledgeBatch | None = None, *, gradient_checkpointing: bool = False
) -> tuple[Tensor, Tensor]:
    """Run the decoder over x with injection, with gradients to the prepared knowledge, by default the batch's own.

    ``gradient_checkpointing`` computes the decoder's blocks again in the backward pass, to take less memory.

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
