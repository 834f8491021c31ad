"""Reading knowledge: documents in, their memories out, once and independent of any input.

Shapes: N encoders, B documents, K knowledge tokens, a tokens of the anchor, D what an encoder reads of a token.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from diekae.encoders import KnowledgeBatch
from diekae.fingerprint import window
from diekae.inject.attached import Attached
from diekae.inject.hooks import run
from diekae.inject.injection import paused
from diekae.knowledge import PreparedKnowledge

PART = 0.75
"""Most of the decoder's window that one part of a longer document takes: x stands behind it."""


@torch.no_grad()
def read_documents(
    attached: Attached,
    anchor: Sequence[int],
    documents: Sequence[Sequence[int]],
    *,
    own_anchor: bool = False,
    batch_size: int = 1,
    chunk_size: int | None = None,
) -> list[PreparedKnowledge]:
    """Read documents, several at once where they fit; one that passes the decoder's window is read in parts.

    Args:
        attached: The bank whose memories they become, and its decoder.
        anchor: Tokens that stand before each document.
        documents: The tokens of each; none at all leaves the anchor alone, if anything.
        own_anchor: Whether x keeps its own anchor behind K.
        batch_size: Documents read at once; those of like length go together.
        chunk_size: Tokens of a document read at once, the rest following behind a cache; all if None.
    """
    room = window(attached.decoder) - len(anchor)
    parts: list[Sequence[int]] = []
    owners: list[int] = []
    for number, ids in enumerate(documents):
        count = 1 if len(ids) <= room else math.ceil(len(ids) / max(1, int(PART * room)))
        size = max(1, math.ceil(len(ids) / count))
        parts += [ids[start : start + size] for start in range(0, max(1, len(ids)), size)]
        owners += [number] * (len(parts) - len(owners))
    read = _read_parts(attached, anchor, parts, own_anchor, batch_size, min(chunk_size or room, room))
    found: list[list[PreparedKnowledge]] = [[] for _ in documents]
    for number, prepared in zip(owners, read, strict=True):
        found[number].append(prepared)
    return [PreparedKnowledge.join(all_prepared) for all_prepared in found]


def _read_parts(
    attached: Attached,
    anchor: Sequence[int],
    parts: Sequence[Sequence[int]],
    own_anchor: bool,
    batch_size: int,
    step: int,
) -> list[PreparedKnowledge]:
    bank, all_prepared = attached.bank, dict[int, PreparedKnowledge]()
    laid = _by_head if attached.by_attention else _as_is
    sizes: Any = getattr(bank.encoder, "sizes", None)
    for chosen in _batches(parts, batch_size, step):
        rows = [parts[number] for number in chosen]
        with paused():
            if attached.by_attention:
                batch = _read_slots(attached, anchor, rows, own_anchor, step)
            else:
                batch = _read_states(attached, anchor, rows, step)
        for row, number in enumerate(chosen):
            all_prepared[number] = PreparedKnowledge(
                {name: laid(tensor[:, row, batch.mask[row]]) for name, tensor in batch.tensors.items()},
                int(batch.position[row]),
                bank.fingerprint(),
                {} if batch.anchor is None else {name: t[:, row] for name, t in batch.anchor.tensors.items()},
                tuple(anchor) if attached.by_attention else (),
                None if batch.places is None else batch.places[row, batch.mask[row]],
                sizes.sharpness if attached.by_attention else 1.0,
            )
    return [all_prepared[number] for number in range(len(parts))]


def _by_head(slots: Tensor) -> Tensor:
    """Lay slots [N, S, G, d] so that each head's lie behind each other, as attention reads them."""
    return slots.transpose(1, 2).contiguous().transpose(1, 2)


def _as_is(slots: Tensor) -> Tensor:
    return slots


def _read_states(attached: Attached, anchor: Sequence[int], rows: Sequence[Sequence[int]], step: int) -> KnowledgeBatch:
    """Let encoders of states or embeddings read documents, chunk by chunk."""
    decoder, bank = attached.decoder, attached.bank
    prepared: KnowledgeBatch | None = None
    cache = DynamicCache(config=decoder.config)
    for start in range(0, max(1, *map(len, rows)), step):
        ids, mask = _pad_right([row[start : start + step] for row in rows], decoder.device)
        if bank.encoder.reads == "embeddings":
            read = decoder.get_input_embeddings()(ids)[None].to(bank.dtype)
        else:
            given = ids if start else _behind(anchor, ids)
            with attached.keeping() as kept:
                run(decoder, given, attached.points, past_key_values=cache, use_cache=True)
            read = torch.stack(kept)[:, :, given.shape[1] - ids.shape[1] :]
        prepared = bank.prepare(read, mask, prepared)
    assert prepared is not None
    return prepared


def _read_slots(
    attached: Attached, anchor: Sequence[int], rows: Sequence[Sequence[int]], own_anchor: bool, step: int
) -> KnowledgeBatch:
    """Make slots of documents, which stand where they end as x begins, chunk by chunk."""
    decoder, a = attached.decoder, len(anchor)
    ids, mask = _pad_right(rows, decoder.device)
    lengths = mask.sum(1)
    whole = _behind(anchor, ids)
    places = torch.arange(whole.shape[1], device=ids.device)[None] - lengths[:, None] - (a if own_anchor else 0)
    cache = DynamicCache(config=decoder.config) if whole.shape[1] > step + a else None
    chunks, start = [], 0
    while start < whole.shape[1]:
        end = min(whole.shape[1], start + step + (0 if start else a))
        with attached.keeping() as kept:
            options: dict[str, Any] = {} if cache is None else {"past_key_values": cache, "use_cache": True}
            run(decoder, whole[:, start:end], attached.points, position_ids=places[:, start:end], **options)
        chunks.append(torch.stack(kept))
        start = end
    states = torch.cat(chunks, dim=2)
    real = torch.ones(len(rows), a, dtype=torch.bool, device=ids.device)
    first = attached.slots(states[:, :, :a], real, places[:, :a], lengths)
    return attached.slots(states[:, :, a:], mask, places[:, a:], lengths, first)


def _behind(anchor: Sequence[int], ids: Tensor) -> Tensor:
    return torch.cat([torch.tensor([list(anchor)], device=ids.device).expand(len(ids), -1), ids], dim=1)


def _batches(documents: Sequence[Sequence[int]], size: int, step: int) -> Iterator[list[int]]:
    """Yield which documents are read together; one that does not fit a step is read alone, chunk by chunk."""
    order = sorted(range(len(documents)), key=lambda number: len(documents[number]))
    fitting = [number for number in order if len(documents[number]) <= step]
    yield from (fitting[start : start + size] for start in range(0, len(fitting), size))
    yield from ([number] for number in order[len(fitting) :])


def _pad_right(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return ids and which are real, both [B, K]; nothing real ever sees what stands to its right."""
    lengths = torch.tensor([len(row) for row in rows], device=device)
    tensors = [torch.tensor(list(row), dtype=torch.long, device=device) for row in rows]
    ids = torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True)
    return ids, torch.arange(ids.shape[1], device=device) < lengths[:, None]
