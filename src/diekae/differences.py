"""What the encoders are regressed on: two runs of the decoder, without gradients (design: sequential and independent).

Shapes: N encoders, B rows, K knowledge tokens, T columns of the run over x, W decoder width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from diekae.data.prompt import Batch
from diekae.encoders import KnowledgeBatch
from diekae.inject.attached import Attached
from diekae.inject.hookpoints import Hookpoint
from diekae.inject.hooks import run

Student = Callable[[Tensor], Callable[[int, Tensor], Tensor]]
"""Given what is read at K [N, B, K, W], returns ``guess(index, read)``, what an encoder injects at x [B, T, W]."""


@dataclass(frozen=True)
class Differences:
    """One batch of the regression: what each encoder may read, and what it should have said."""

    knowledge_ids: Tensor
    """Tokens of K, int64 [B, K]."""
    knowledge_mask: Tensor
    """Real tokens of K, bool [B, K]."""
    knowledge_states: Tensor
    """What encoders read of K, [N, B, K, W]."""
    input_ids: Tensor
    """Tokens of the run over x, anchor included; int64 [B, T]."""
    input_mask: Tensor
    """Real columns, bool [B, T]."""
    states: Tensor
    """What encoders read of x just before the difference is added, [N, B, T, W]."""
    targets: Tensor
    """The difference that reading K makes, [N, B, T, W]; meaningful where ``receives``."""
    receives: Tensor
    """Columns that receive a difference, bool [B, T]."""


@torch.no_grad()
def collect(
    decoder: PreTrainedModel,
    points: Mapping[int, Hookpoint],
    batch: Batch,
    *,
    kind: str = "sequential",
    student: Student | None = None,
) -> Differences:
    """Run the decoder with and without knowledge and take the differences at every hookpoint.

    Args:
        decoder: The frozen decoder.
        points: Hookpoints by layer, N of them.
        batch: From :func:`diekae.data.prompt.collate`.
        kind: ``sequential``: what is still missing in the stream after the injections below. ``independent``: the
            difference of the hooked outputs of two untouched runs (paper, section 3.2).
        student: With it the run over x carries what the encoders inject (rollout ``student``), otherwise the states
            of the run with knowledge (``teacher``).
    """
    index = {layer: number for number, layer in enumerate(sorted(points))}
    with_knowledge = [torch.empty(0)] * len(index)
    knowledge_states = [torch.empty(0)] * len(index)
    columns = run_columns(batch)
    slots = knowledge_columns(batch, batch["full_ids"].shape[1])

    def keep(layer: int, stream: Tensor, output: Tensor) -> None:
        value = stream if kind == "sequential" else output
        with_knowledge[index[layer]] = take_columns(value, columns)
        knowledge_states[index[layer]] = take_columns(stream, slots)

    run(decoder, batch["full_ids"], points, keep)
    known = torch.stack(knowledge_states)
    guess = None if student is None else student(known)
    states = [torch.empty(0)] * len(index)
    targets = [torch.empty(0)] * len(index)
    receives = batch["receives"][..., None]

    def compare(layer: int, stream: Tensor, output: Tensor) -> Tensor | None:
        number = index[layer]
        states[number] = stream
        if kind == "independent":
            targets[number] = with_knowledge[number] - output
            return None
        missing = with_knowledge[number] - stream
        targets[number] = missing
        difference = missing if guess is None else guess(number, states[number]).to(missing.dtype)
        return torch.where(receives, difference, torch.zeros_like(missing))

    run(decoder, batch["input_ids"], points, compare)
    ids = torch.gather(batch["full_ids"], 1, slots)
    return Differences(
        ids,
        batch["knowledge_mask"],
        known,
        batch["input_ids"],
        batch["input_mask"],
        torch.stack(states),
        torch.stack(targets),
        batch["receives"],
    )


@torch.no_grad()
def read_knowledge(attached: Attached, batch: Batch) -> dict[str, Tensor]:
    """Return what encoders read of K alone: one run over anchor and K; see :func:`read_in_run`."""
    length = int((batch["knowledge_start"] + batch["knowledge_mask"].sum(1)).max())
    places = run_places(attached, batch)
    with attached.keeping() as kept:
        stands = None if places is None else places[:, :length]
        run(attached.decoder, batch["full_ids"][:, :length], attached.points, position_ids=stands)
    return read_in_run(attached, batch, kept)


def read_in_run(attached: Attached, batch: Batch, kept: list[Tensor]) -> dict[str, Tensor]:
    """Return what encoders read of K in a run that begins with anchor and K.

    Args:
        attached: The bank.
        batch: What was run.
        kept: What encoders read of every column, [B, columns, D] each, as from :meth:`Attached.keeping`.

    Returns:
        ``knowledge_states`` [N, B, K, D]; and where the decoder's attention reads slots, ``anchor_states``
        [N, B, a, D] and ``anchor_mask``, which of them are real, bool [B, a].
    """
    columns = knowledge_columns(batch, kept[0].shape[1])
    found = {"knowledge_states": torch.stack([take_columns(states, columns) for states in kept])}
    if attached.by_attention:
        start = batch["knowledge_start"]
        longest = int(start.max())
        found["anchor_states"] = torch.stack([states[:, :longest] for states in kept])
        found["anchor_mask"] = torch.arange(longest, device=start.device)[None] < start[:, None]
    return found


def run_places(attached: Attached, batch: Batch) -> Tensor | None:
    """Return the positions of a run with knowledge, int64 [B, F], in which x stands where it stands without.

    None where the encoders do not read positions: the decoder's own do then.
    """
    if not attached.by_attention:
        return None
    columns = torch.arange(batch["full_ids"].shape[1], device=batch["full_ids"].device)
    return columns[None] - batch["offset"][:, None]


@torch.no_grad()
def read_apart(attached: Attached, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what encoders read of documents that are prepared apart, P rows; see :func:`read_in_run`."""
    lengths, start = batch["document_mask"].sum(1), batch["document_start"]
    documents: Any = {
        "knowledge_start": start,
        "knowledge_mask": batch["document_mask"],
        "full_ids": batch["document_ids"],
        "offset": lengths,
    }
    return read_knowledge(attached, documents)


def join_documents(prepared: KnowledgeBatch, rows: Tensor, sharpness: float) -> KnowledgeBatch:
    """Join the slots of documents that were read apart; each row keeps the anchor of its longest.

    Args:
        prepared: Of P documents.
        rows: The row that each belongs to, int64 [P], in order.
        sharpness: Factor of the keys of rows with more than one document.
    """
    assert prepared.places is not None
    keys = prepared.tensors["keys"]
    factors = torch.where(rows.bincount()[rows] > 1, sharpness, 1.0).to(keys.dtype)
    sharp = {**prepared.tensors, "keys": keys * factors[:, None, None, None]}
    count, slots = int(rows.max()) + 1, prepared.mask.shape[1]
    kept = [prepared.mask[rows == row].flatten().nonzero()[:, 0] for row in range(count)]
    starts = [int((rows < row).sum()) * slots for row in range(count)]
    columns = [own + start for own, start in zip(kept, starts, strict=True)]
    index = torch.nn.utils.rnn.pad_sequence(columns, batch_first=True)
    lengths = torch.tensor([len(own) for own in columns], device=rows.device)
    tensors = {name: tensor.flatten(1, 2)[:, index] for name, tensor in sharp.items()}
    longest = torch.stack(
        [
            torch.where(rows == row, prepared.position, -1).argmax()  # the first of the longest
            for row in range(count)
        ]
    )
    anchor = (
        None if prepared.anchor is None else prepared.anchor.map(lambda tensor, dim: tensor.index_select(dim, longest))
    )
    mask = torch.arange(index.shape[1], device=rows.device)[None] < lengths[:, None]
    places = prepared.places.flatten()[index]
    return KnowledgeBatch(tensors, mask, prepared.position[longest], False, places, anchor)


def make_slots(attached: Attached, found: Mapping[str, Tensor], mask: Tensor, own_anchor: bool) -> KnowledgeBatch:
    """Make slots, with gradients to the bank, of what :func:`read_in_run` found.

    Args:
        attached: The bank.
        found: What was found.
        mask: Real tokens of K, bool [B, K].
        own_anchor: Whether x keeps its own anchor behind K.
    """
    anchored, lengths = found["anchor_mask"], mask.sum(1)
    starts = anchored.sum(1)
    first = -lengths - (starts if own_anchor else 0)
    places = [first[:, None] + torch.arange(part.shape[1], device=mask.device)[None] for part in (anchored, mask)]
    anchor = attached.slots(found["anchor_states"], anchored, places[0], lengths)
    return attached.slots(found["knowledge_states"], mask, places[1] + starts[:, None], lengths, anchor)


def knowledge_columns(batch: Batch, length: int) -> Tensor:
    """Return where K's tokens stand in a run of ``length`` columns, int64 [B, K]; padding points inside it."""
    count = torch.arange(batch["knowledge_mask"].shape[1], device=batch["full_ids"].device)
    return (batch["knowledge_start"][:, None] + count).clamp(max=length - 1)


def run_columns(batch: Batch) -> Tensor:
    """Return, for each column of the run over x, its column in the run with knowledge; int64 [B, T]."""
    places = torch.arange(batch["input_ids"].shape[1], device=batch["input_ids"].device)[None]
    inside = places >= batch["knowledge_start"][:, None]
    shifted = places + torch.where(inside | batch["receives"], batch["offset"][:, None], 0)
    return shifted.clamp(max=batch["full_ids"].shape[1] - 1)


def take_columns(states: Tensor, columns: Tensor) -> Tensor:
    """Take columns [B, C] of states [B, T, W]; returns [B, C, W]."""
    return torch.gather(states, 1, columns[..., None].expand(-1, -1, states.shape[-1]))
