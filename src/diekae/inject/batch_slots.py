"""What encoders read of K in a training batch, and slots made from it with gradients to the bank.

Shapes: N encoders, B rows, K knowledge tokens, F columns of the run with knowledge, a columns of the longest anchor,
P documents that are prepared apart, D what an encoder reads of one token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from diekae.data.batch import Batch
from diekae.encoders import KnowledgeBatch
from diekae.inject.attached import Attached
from diekae.inject.batch_columns import knowledge_columns, run_positions, take_columns
from diekae.inject.hooks import run


def run_places(attached: Attached, batch: Batch) -> Tensor | None:
    """Return ``position_ids`` for the run with knowledge, int64 [B, F]; see :func:`run_positions`.

    None where the decoder's attention does not read slots: then the decoder's own positions are right.
    """
    return run_positions(batch) if attached.by_attention else None


@torch.no_grad()
def read_knowledge(attached: Attached, batch: Batch) -> dict[str, Tensor]:
    """Return what encoders read of K, by a run over anchor and K alone; see :func:`read_in_run`."""
    length = int((batch["knowledge_start"] + batch["knowledge_mask"].sum(1)).max())
    positions = run_places(attached, batch)
    if positions is not None:
        positions = positions[:, :length]
    with attached.keeping() as states:
        run(attached.decoder, batch["full_ids"][:, :length], attached.hookpoints, position_ids=positions)
    return read_in_run(attached, batch, states)


def read_in_run(attached: Attached, batch: Batch, states: list[Tensor]) -> dict[str, Tensor]:
    """Return what encoders read of K in a run that begins with anchor and K.

    Args:
        attached: The bank.
        batch: What was run.
        states: What encoders read of every column, [B, F, D] each, from :meth:`Attached.keeping`.

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


@torch.no_grad()
def read_apart(attached: Attached, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what encoders read of P documents that are prepared apart, a row each; see :func:`read_in_run`.

    Args:
        attached: The bank.
        batch: With the fields of :class:`diekae.data.prompt.Documents`.
    """
    documents: Any = {
        "knowledge_start": batch["document_start"],
        "knowledge_mask": batch["document_mask"],
        "full_ids": batch["document_ids"],
        "offset": batch["document_mask"].sum(1),
    }
    return read_knowledge(attached, documents)


def make_slots(attached: Attached, read: Mapping[str, Tensor], mask: Tensor, own_anchor: bool) -> KnowledgeBatch:
    """Make slots from what :func:`read_in_run` returned, with gradients to the bank.

    Args:
        attached: The bank.
        read: What encoders read.
        mask: Real tokens of K, bool [B, K].
        own_anchor: Whether x keeps its own anchor after K.
    """
    anchor_mask, lengths = read["anchor_mask"], mask.sum(1)
    anchor_lengths = anchor_mask.sum(1)
    first = (-lengths - (anchor_lengths if own_anchor else 0))[:, None]
    anchor_columns, knowledge_tokens = (
        torch.arange(part.shape[1], device=mask.device)[None] for part in (anchor_mask, mask)
    )
    anchor = attached.slots(read["anchor_states"], anchor_mask, first + anchor_columns, lengths)
    positions = first + knowledge_tokens + anchor_lengths[:, None]
    return attached.slots(read["knowledge_states"], mask, positions, lengths, anchor)


def join_documents(documents: KnowledgeBatch, rows: Tensor, sharpness: float) -> KnowledgeBatch:
    """Join the slots of documents that were prepared apart; each row keeps the anchor of its longest document.

    Args:
        documents: Slots of P documents.
        rows: The row that each document belongs to, int64 [P], in ascending order.
        sharpness: Factor of the keys in rows with more than one document.
    """
    assert documents.places is not None
    keys = documents.tensors["keys"]
    factors = torch.where(rows.bincount()[rows] > 1, sharpness, 1.0).to(keys.dtype)
    tensors = {**documents.tensors, "keys": keys * factors[:, None, None, None]}
    count, slots = int(rows.max()) + 1, documents.mask.shape[1]
    # Where each row's real slots are when the slots of all documents follow one another.
    columns = [
        documents.mask[rows == row].flatten().nonzero()[:, 0] + int((rows < row).sum()) * slots for row in range(count)
    ]
    index = torch.nn.utils.rnn.pad_sequence(columns, batch_first=True)
    lengths = torch.tensor([len(of_row) for of_row in columns], device=rows.device)
    mask = torch.arange(index.shape[1], device=rows.device)[None] < lengths[:, None]
    # The first of the longest documents.
    longest = torch.stack([torch.where(rows == row, documents.position, -1).argmax() for row in range(count)])
    anchor = documents.anchor
    return KnowledgeBatch(
        {name: tensor.flatten(1, 2)[:, index] for name, tensor in tensors.items()},
        mask,
        documents.position[longest],
        False,
        documents.places.flatten()[index],
        None if anchor is None else anchor.map(lambda tensor, dim: tensor.index_select(dim, longest)),
    )
