"""Preparing knowledge: the bank reads documents once, independent of any input.

Shapes: N encoders, M layers of the decoder without an encoder, B documents, K knowledge tokens, a tokens of the anchor,
G key heads, d head size, D what an encoder reads of each token.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from diekae.data.prompt import Prompt
from diekae.encoders import KnowledgeBatch
from diekae.fingerprint import window
from diekae.inject.attached import Attached
from diekae.inject.contexts import paused
from diekae.inject.hookpoints import find_blocks, stack_of
from diekae.inject.hooks import run
from diekae.knowledge import PreparedKnowledge

PART = 0.75
"""Share of the decoder's window that one part of a longer document takes at most; x needs the rest."""


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
    """Read documents, several at once. A document longer than the decoder's window is read in parts.

    Args:
        attached: The bank in its decoder.
        anchor: Tokens before each document.
        documents: Tokens of each document; an empty document leaves the anchor alone.
        own_anchor: Whether x keeps its own anchor after K.
        batch_size: Documents to read at once; documents of similar length are read together.
        chunk_size: Most tokens of a document to read at once; later chunks follow with a cache. None for all.
    """
    room = window(attached.decoder) - len(anchor)
    parts: list[Sequence[int]] = []
    owners: list[int] = []  # the document of each part
    for number, ids in enumerate(documents):
        count = 1 if len(ids) <= room else math.ceil(len(ids) / max(1, int(PART * room)))
        size = max(1, math.ceil(len(ids) / count))
        parts += [ids[start : start + size] for start in range(0, max(1, len(ids)), size)]
        owners += [number] * (len(parts) - len(owners))
    prepared_parts = _read_parts(attached, anchor, parts, own_anchor, batch_size, min(chunk_size or room, room))
    by_document: list[list[PreparedKnowledge]] = [[] for _ in documents]
    for number, prepared in zip(owners, prepared_parts, strict=True):
        by_document[number].append(prepared)
    return [PreparedKnowledge.join(parts) for parts in by_document]


def read_prompts(
    attached: Attached, prompts: Sequence[Prompt], *, own_anchor: bool = False, batch_size: int = 1
) -> list[PreparedKnowledge]:
    """Read the knowledge of prompts, each distinct one once; arguments as for :func:`read_documents`."""
    distinct = list(dict.fromkeys((prompt.anchor, prompt.knowledge) for prompt in prompts))
    ready: dict[Any, PreparedKnowledge] = {}
    for anchor in dict.fromkeys(anchor for anchor, _ in distinct):
        documents = [knowledge for other, knowledge in distinct if other == anchor]
        prepared = read_documents(attached, anchor, documents, own_anchor=own_anchor, batch_size=batch_size)
        ready |= dict(zip(((anchor, document) for document in documents), prepared, strict=True))
    return [ready[prompt.anchor, prompt.knowledge] for prompt in prompts]


def _read_parts(
    attached: Attached,
    anchor: Sequence[int],
    parts: Sequence[Sequence[int]],
    own_anchor: bool,
    batch_size: int,
    step: int,
) -> list[PreparedKnowledge]:
    """Read parts of documents, each at most a window long, at most ``step`` tokens at once."""
    bank, by_attention = attached.bank, attached.by_attention
    layout: Callable[[Tensor], Tensor] = _by_head if by_attention else lambda slots: slots
    prepared: dict[int, PreparedKnowledge] = {}
    fingerprint = bank.fingerprint(look=True)
    bare_anchor = _read_anchor(attached, anchor) if parts and by_attention and not own_anchor else {}
    for numbers in _batches(parts, batch_size, step):
        rows = [parts[number] for number in numbers]
        with paused():
            if by_attention:
                batch = _read_slots(attached, anchor, rows, own_anchor, step)
            else:
                batch = _read_states(attached, anchor, rows, step)
        for row, number in enumerate(numbers):
            real = batch.mask[row]
            prepared[number] = PreparedKnowledge(
                tensors={name: layout(tensor[:, row, real]) for name, tensor in batch.tensors.items()},
                position=int(batch.position[row]),
                bank=fingerprint,
                anchor={} if batch.anchor is None else {n: t[:, row] for n, t in batch.anchor.tensors.items()},
                anchor_ids=tuple(anchor) if by_attention else (),
                bare_anchor=bare_anchor,
                places=None if batch.places is None else batch.places[row, real],
                sharpness=bank.encoder.sizes.sharpness if by_attention else 1.0,
            )
    return [prepared[number] for number in range(len(parts))]


def _by_head(slots: Tensor) -> Tensor:
    """Return slots [N, S, G, d] laid out in RAM so that each head's slots are contiguous, as attention reads them."""
    return slots.transpose(1, 2).contiguous().transpose(1, 2)


def _read_states(attached: Attached, anchor: Sequence[int], rows: Sequence[Sequence[int]], step: int) -> KnowledgeBatch:
    """Read documents with an encoder of hidden states or embeddings, chunk by chunk."""
    decoder, bank = attached.decoder, attached.bank
    batch: KnowledgeBatch | None = None
    cache = DynamicCache(config=decoder.config)
    for start in range(0, max(1, *map(len, rows)), step):
        ids, mask = pad_right([row[start : start + step] for row in rows], decoder.device)
        if bank.encoder.reads == "embeddings":
            states = decoder.get_input_embeddings()(ids)[None].to(bank.dtype)
        else:
            input_ids = ids if start else _prepend(anchor, ids)
            with attached.keeping() as kept:
                run(decoder, input_ids, attached.hookpoints, past_key_values=cache, use_cache=True)
            states = torch.stack(kept)[:, :, input_ids.shape[1] - ids.shape[1] :]
        batch = bank.prepare(states, mask, batch)
    assert batch is not None
    return batch


def _read_slots(
    attached: Attached, anchor: Sequence[int], rows: Sequence[Sequence[int]], own_anchor: bool, step: int
) -> KnowledgeBatch:
    """Make slots of documents, whose positions end where x begins, chunk by chunk."""
    decoder, a = attached.decoder, len(anchor)
    ids, mask = pad_right(rows, decoder.device)
    lengths = mask.sum(1)
    input_ids = _prepend(anchor, ids)
    columns = torch.arange(input_ids.shape[1], device=ids.device)[None]
    places = columns - lengths[:, None] - (a if own_anchor else 0)
    cache = DynamicCache(config=decoder.config) if input_ids.shape[1] > step + a else None
    options: dict[str, Any] = {} if cache is None else {"past_key_values": cache, "use_cache": True}
    chunks, start = [], 0
    while start < input_ids.shape[1]:
        end = min(input_ids.shape[1], start + step + (0 if start else a))
        with attached.keeping() as kept:
            run(decoder, input_ids[:, start:end], attached.hookpoints, position_ids=places[:, start:end], **options)
        chunks.append(torch.stack(kept))
        start = end
    states = torch.cat(chunks, dim=2)
    anchor_mask = torch.ones(len(rows), a, dtype=torch.bool, device=ids.device)
    anchor_slots = attached.slots(states[:, :, :a], anchor_mask, places[:, :a], lengths)
    return attached.slots(states[:, :, a:], mask, places[:, a:], lengths, anchor_slots)


def _read_anchor(attached: Attached, anchor: Sequence[int]) -> dict[str, Tensor]:
    """Return the decoder's own keys and values of the anchor in its layers without an encoder, each [M, a, G, d].

    Empty if there are no such layers, or if the decoder's cache does not hold all of them, of one size.
    """
    decoder = attached.decoder
    others = sorted(set(range(len(find_blocks(decoder)))) - set(attached.bank.layers))
    cache = DynamicCache(config=decoder.config)
    if not others or len(cache.layers) != len(others) + len(attached.bank.layers):
        return {}
    ids = torch.tensor([list(anchor)], device=decoder.device)
    with paused():
        stack_of(decoder)(input_ids=ids, past_key_values=cache, use_cache=True)
    layers: list[Any] = [cache.layers[layer] for layer in others]
    kinds = (DynamicLayer, DynamicSlidingWindowLayer)
    if any(type(layer) not in kinds or not layer.is_initialized for layer in layers):
        return {}
    by_name = {"keys": [layer.keys[0] for layer in layers], "values": [layer.values[0] for layer in layers]}
    # A window that is shorter than the anchor keeps its last columns only.
    if any(len({t.shape for t in tensors}) > 1 or tensors[0].shape[1] != len(anchor) for tensors in by_name.values()):
        return {}
    return {name: torch.stack(tensors).transpose(1, 2) for name, tensors in by_name.items()}


def _prepend(anchor: Sequence[int], ids: Tensor) -> Tensor:
    """Return ids [B, a + K] with the anchor before each row."""
    return torch.cat([torch.tensor([list(anchor)], device=ids.device).expand(len(ids), -1), ids], dim=1)


def _batches(documents: Sequence[Sequence[int]], size: int, step: int) -> Iterator[list[int]]:
    """Yield the numbers of documents to read together; a document longer than ``step`` is read alone."""
    order = sorted(range(len(documents)), key=lambda number: len(documents[number]))
    fitting = [number for number in order if len(documents[number]) <= step]
    yield from (fitting[start : start + size] for start in range(0, len(fitting), size))
    yield from ([number] for number in order[len(fitting) :])


def pad_right(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return ids and which of them are real, both [B, K]. Real tokens never attend to padding on their right."""
    lengths = torch.tensor([len(row) for row in rows], device=device)
    tensors = [torch.tensor(list(row), dtype=torch.long, device=device) for row in rows]
    ids = torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True)
    return ids, torch.arange(ids.shape[1], device=device) < lengths[:, None]
