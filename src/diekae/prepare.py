"""Preparing knowledge: the bank reads documents once, independent of any input.

Shapes: N encoders, M layers of the decoder without an encoder, B documents, K knowledge tokens, a tokens of the anchor,
G key heads, d head size, D what an encoder reads of each token.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from diekae.data.prompt import Prompt
from diekae.encoders import KnowledgeBatch
from diekae.fingerprint import window
from diekae.free_memory import free_memory
from diekae.inject.attached import Attached
from diekae.inject.contexts import paused
from diekae.inject.hookpoints import find_blocks, stack_of
from diekae.inject.hooks import run
from diekae.inject.rotary import KeyRotation, UnknownRotation
from diekae.knowledge import PreparedKnowledge, split_batch
from diekae.placement import input_device, stays
from diekae.progress import Progress, silent

CHUNK = 2048
"""Most tokens of a document that the decoder reads at once, so that memory is bounded in any window."""
PEAK = 4
"""How many times the bytes of the result are needed at most while it is made: the decoder's cache, slots, copies."""
ROOM = 256
"""Tokens of x, its answer among them, that a sliding window should leave beside K."""
PART = 0.75
"""Share of the decoder's window that one part of a longer document takes at most; x needs the rest."""


@torch.no_grad()
def read_documents(
    attached: Attached,
    anchor: Sequence[int],
    documents: Sequence[Sequence[int]],
    *,
    batch_size: int = 1,
    chunk_size: int | None = None,
    progress: Progress = silent,
) -> list[PreparedKnowledge]:
    """Read the tokens of documents after an anchor, several at once; an empty document leaves the anchor alone.

    A document longer than the decoder's window is read in parts.

    Args:
        attached: The bank in its decoder.
        anchor: Tokens before each document.
        documents: Tokens of each document.
        batch_size: Documents to read at once; documents of similar length are read together.
        chunk_size: Most tokens of a document to read at once; later chunks follow with a cache. `CHUNK` if None.
        progress: Called with the tokens that are read, if a document is read in chunks.

    Raises:
        ValueError: There is not enough memory for what would be made, or it holds NaN or infinity.
    """
    room = window(attached.decoder) - len(anchor)
    step = min(chunk_size or CHUNK, room)
    is_long, total, done = any(len(ids) > step for ids in documents), sum(map(len, documents)), 0
    if total > step:
        check_memory(attached, anchor, total)

    def advance(tokens: int) -> None:
        nonlocal done
        done += tokens
        if is_long:
            progress("reading long documents", done, total)

    parts: list[Sequence[int]] = []
    owners: list[int] = []  # the document of each part
    for number, ids in enumerate(documents):
        count = 1 if len(ids) <= room else math.ceil(len(ids) / max(1, int(PART * room)))
        size = max(1, math.ceil(len(ids) / count))
        parts += [ids[start : start + size] for start in range(0, max(1, len(ids)), size)]
        owners += [number] * (len(parts) - len(owners))
    prepared_parts = _read_parts(attached, anchor, parts, batch_size, step, advance)
    by_document: list[list[PreparedKnowledge]] = [[] for _ in documents]
    for number, prepared in zip(owners, prepared_parts, strict=True):
        by_document[number].append(prepared)
    return [PreparedKnowledge.join(parts) for parts in by_document]


@torch.no_grad()
def check_memory(attached: Attached, anchor: Sequence[int], tokens: int) -> None:
    """Check that what is prepared of so many tokens of K fits into free memory, before K is read (ValueError)."""
    (slot,) = _read_parts(attached, anchor, [(0,)], 1, 1, silent)
    size = tokens * sum(tensor.nbytes for tensor in slot.tensors.values())
    free = free_memory(attached.bank.bias.device)
    if PEAK * size > free:
        raise ValueError(
            f"the knowledge has {tokens:,} tokens; what is prepared of it takes {size / 1e9:.1f} GB, and about "
            f"{PEAK * size / 1e9:.1f} GB while it is read, but {free / 1e9:.1f} GB of memory are free. Divide it into "
            "several documents and add them to a KnowledgeStore, which prepares one after the other; or take a bank of "
            "fewer layers, or a decoder in bf16."
        )


def read_prompts(attached: Attached, prompts: Sequence[Prompt], *, batch_size: int = 1) -> list[PreparedKnowledge]:
    """Read the knowledge of prompts, each distinct one once; arguments as for :func:`read_documents`."""
    distinct = list(dict.fromkeys((prompt.anchor, prompt.knowledge) for prompt in prompts))
    ready: dict[Any, PreparedKnowledge] = {}
    for anchor in dict.fromkeys(anchor for anchor, _ in distinct):
        documents = [knowledge for other, knowledge in distinct if other == anchor]
        prepared = read_documents(attached, anchor, documents, batch_size=batch_size)
        ready |= dict(zip(((anchor, document) for document in documents), prepared, strict=True))
    return [ready[prompt.anchor, prompt.knowledge] for prompt in prompts]


def moved_up(attached: Attached, prepared: PreparedKnowledge) -> PreparedKnowledge:
    """Return slots that were taken from a document so that no sliding window hides them.

    Slots keep their distances from x if they can. If the window of a layer has too little room for the document and x,
    they are moved up to x without gaps, the anchor before them, and their keys are rotated to the new positions. The
    result is the same object if nothing is moved: if no window is too short, there are no gaps, or the decoder rotates
    keys in a way that is not known here.
    """
    windows = [site.window for site in attached.sites.values() if site.window is not None]
    anchor_positions = prepared.anchor_positions
    if not windows or prepared.positions is None or anchor_positions is None or not len(prepared):
        return prepared
    first, a = int(anchor_positions[0]), len(anchor_positions)
    distinct, order = prepared.positions.unique(return_inverse=True)
    begin = (0 if attached.own_anchor else a) - len(distinct)  # without an anchor of its own, x begins at position a
    if min(windows) >= ROOM - first or first == begin - a:
        return prepared
    positions = begin + order
    new_anchor_positions = torch.arange(begin - a, begin, device=positions.device)
    try:
        tensors = rotated(attached, prepared.tensors, positions - prepared.positions)
        anchor = rotated(attached, prepared.anchor, new_anchor_positions - anchor_positions)
    except UnknownRotation:
        return prepared
    return replace(prepared, tensors=tensors, anchor=anchor, positions=positions, begin=None)


def rotated(attached: Attached, tensors: Mapping[str, Tensor], steps: Tensor) -> dict[str, Tensor]:
    """Return slots of one document whose keys are rotated further by steps, int [S]."""
    rotation = KeyRotation(attached.decoder, attached.sites, steps[None], further=True)
    keys = zip(attached.bank.layers, tensors["keys"], strict=True)
    return {**tensors, "keys": torch.stack([rotation(layer, keys_of_layer[None])[0] for layer, keys_of_layer in keys])}


def _read_parts(
    attached: Attached,
    anchor: Sequence[int],
    parts: Sequence[Sequence[int]],
    batch_size: int,
    step: int,
    advance: Callable[[int], None],
) -> list[PreparedKnowledge]:
    """Read parts of documents, each at most a window long, at most ``step`` tokens at once; ``advance`` counts them."""
    bank, by_attention = attached.bank, attached.by_attention
    read = _read_slots if by_attention else _read_states
    fingerprint = bank.fingerprint(look=True)
    bare_anchor = _read_anchor(attached, anchor) if parts and by_attention and not attached.own_anchor else {}
    prepared: dict[int, PreparedKnowledge] = {}
    for numbers in _batches(parts, batch_size, step):
        with paused():
            batch = read(attached, anchor, [parts[number] for number in numbers], step, advance)
        _check_finite(batch)
        rows = split_batch(batch, [anchor] * len(numbers), fingerprint, bare_anchor)
        prepared |= zip(numbers, [_by_head(row) for row in rows] if by_attention else rows, strict=True)
    return [prepared[number] for number in range(len(parts))]


def _check_finite(batch: KnowledgeBatch) -> None:
    """Refuse slots with NaN or infinity, which would silently spoil every answer, by a ValueError."""
    tensors = [*batch.tensors.values(), *(batch.anchor.tensors.values() if batch.anchor else ())]
    if not all(bool(tensor.isfinite().all()) for tensor in tensors):
        raise ValueError(
            f"what was prepared of K holds NaN or infinity, in {tensors[0].dtype}: weights of the decoder or the bank "
            "are damaged, or numbers exceed this type. Load the decoder in bf16 or fp32, or restore its files."
        )


def _by_head(prepared: PreparedKnowledge) -> PreparedKnowledge:
    """Lay slots [N, S, G, d] out in RAM so that each head's slots are contiguous, as attention reads them."""
    tensors = {n: t.transpose(1, 2).contiguous().transpose(1, 2) for n, t in prepared.tensors.items()}
    return replace(prepared, tensors=tensors)


def _read_states(
    attached: Attached, anchor: Sequence[int], rows: Sequence[Sequence[int]], step: int, advance: Callable[[int], None]
) -> KnowledgeBatch:
    """Read documents with an encoder of hidden states or embeddings, chunk by chunk."""
    decoder, bank = attached.decoder, attached.bank
    batch: KnowledgeBatch | None = None
    cache = DynamicCache(config=decoder.config)
    for start in range(0, max(1, *map(len, rows)), step):
        chunk = [row[start : start + step] for row in rows]
        ids, mask = pad_right(chunk, input_device(decoder))
        if bank.encoder.reads == "embeddings":
            states = decoder.get_input_embeddings()(ids)[None].to(bank.dtype)
        else:
            input_ids = ids if start else _prepend(anchor, ids)
            with attached.keeping() as kept:
                run(decoder, input_ids, attached.hookpoints, cache=cache, use_cache=True)
            states = torch.stack(kept)[:, :, input_ids.shape[1] - ids.shape[1] :]
        batch = bank.prepare(states, mask, batch)
        advance(sum(map(len, chunk)))
    assert batch is not None
    return batch


def _read_slots(
    attached: Attached, anchor: Sequence[int], rows: Sequence[Sequence[int]], step: int, advance: Callable[[int], None]
) -> KnowledgeBatch:
    """Make slots of documents, whose positions end where x begins, chunk by chunk."""
    decoder, a = attached.decoder, len(anchor)
    ids, mask = pad_right(rows, input_device(decoder))
    input_ids = _prepend(anchor, ids)
    lengths, columns = mask.sum(1), torch.arange(input_ids.shape[1], device=ids.device)
    first = -lengths - (a if attached.own_anchor else 0)
    positions = columns[None] + first[:, None]
    cache = DynamicCache(config=decoder.config) if input_ids.shape[1] > step + a else None
    options: dict[str, Any] = {} if cache is None else {"cache": cache, "use_cache": True}
    anchor_slots: KnowledgeBatch | None = None
    chunks: list[dict[str, Tensor]] = []
    start = 0
    while start < input_ids.shape[1]:
        begin = start or a  # the first column of K
        end = min(input_ids.shape[1], begin + step)
        with attached.keeping() as kept:
            run(decoder, input_ids[:, start:end], attached.hookpoints, position_ids=positions[:, start:end], **options)
        states = torch.stack(kept)
        if anchor_slots is None:
            anchor_mask = torch.ones(len(rows), a, dtype=torch.bool, device=ids.device)
            anchor_slots = attached.slots_from(states[:, :, :a], anchor_mask, first, lengths)
        of_chunk = mask[:, begin - a : end - a]
        chunks.append(attached.slots_from(states[:, :, begin - start :], of_chunk, first + begin, lengths).tensors)
        advance(sum(len(row[begin - a : end - a]) for row in rows))
        start = end
    tensors = chunks[0] if len(chunks) == 1 else {name: torch.cat([c[name] for c in chunks], 2) for name in chunks[0]}
    return KnowledgeBatch(tensors, mask, lengths, positions=positions[:, a:], anchor=anchor_slots)


def _read_anchor(attached: Attached, anchor: Sequence[int]) -> dict[str, Tensor]:
    """Return the decoder's own keys and values of the anchor in its layers without an encoder, each [M, a, G, d].

    Empty if there are no such layers, if the decoder's cache does not hold all of them, of one size, or if the decoder
    is spread over devices, where x reads its anchor.
    """
    decoder = attached.decoder
    others = sorted(set(range(len(find_blocks(decoder)))) - set(attached.bank.layers))
    cache = DynamicCache(config=decoder.config)
    if not others or len(cache.layers) != len(others) + len(attached.bank.layers) or stays(decoder):
        return {}
    ids = torch.tensor([list(anchor)], device=input_device(decoder))
    with paused():
        stack_of(decoder)(input_ids=ids, cache=cache, use_cache=True)
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
