"""Reading knowledge: documents in, their memories out, once and independent of any input.

Shapes: N encoders, B documents, K knowledge tokens, W decoder width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from diekae.encoders import MemoryBatch
from diekae.encoders.bank import Bank
from diekae.fingerprint import window
from diekae.inject.hookpoints import Hookpoint
from diekae.inject.hooks import run
from diekae.inject.injection import read_by
from diekae.memory import Memory


@torch.no_grad()
def read_documents(
    bank: Bank,
    decoder: PreTrainedModel,
    points: Mapping[int, Hookpoint],
    anchor: Sequence[int],
    documents: Sequence[Sequence[int]],
    batch_size: int = 1,
    chunk_size: int | None = None,
) -> list[Memory]:
    """Read documents, several at once where they fit.

    Args:
        bank: Whose memories they become.
        decoder: Its decoder.
        points: Its hookpoints, by layer.
        anchor: Tokens that stand before each document.
        documents: The tokens of each, at least one.
        batch_size: Documents read at once; those of like length go together.
        chunk_size: Tokens of a document read at once; as much as fits the window if None.
    """
    room = window(decoder) - len(anchor)
    step = min(chunk_size or room, room)
    memories: dict[int, Memory] = {}
    for chosen in _batches(documents, batch_size, step):
        batch: MemoryBatch | None = None
        cache: DynamicCache | None = None
        for start in range(0, max(len(documents[i]) for i in chosen), step):
            ids, mask = _pad_right([documents[i][start : start + step] for i in chosen], decoder.device)
            if bank.encoder.reads == "embeddings":
                read = decoder.get_input_embeddings()(ids)[None].to(bank.dtype)
            else:
                if cache is None or int(cache.get_seq_length()) + ids.shape[1] > window(decoder):
                    cache = DynamicCache(config=decoder.config)
                    ids = torch.cat([torch.tensor([list(anchor)], device=ids.device).expand(len(ids), -1), ids], dim=1)
                read = _states(bank, decoder, points, ids, cache)[:, :, -mask.shape[1] :]
            batch = bank.prepare(read, mask, batch)
        assert batch is not None, "a document has at least one token"
        for row, number in enumerate(chosen):
            kept = {name: tensor[:, row, batch.mask[row]] for name, tensor in batch.tensors.items()}
            memories[number] = Memory(kept, int(batch.position[row]), bank.fingerprint())
    return [memories[number] for number in range(len(documents))]


def _batches(documents: Sequence[Sequence[int]], size: int, step: int) -> Iterator[list[int]]:
    """Yield which documents are read together; one that does not fit a step is read alone, chunk by chunk."""
    order = sorted(range(len(documents)), key=lambda number: len(documents[number]))
    fitting = [number for number in order if len(documents[number]) <= step]
    yield from (fitting[start : start + size] for start in range(0, len(fitting), size))
    yield from ([number] for number in order[len(fitting) :])


def _pad_right(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return ids and which are real, both [B, K]; nothing real ever sees what stands to its right."""
    lengths = torch.tensor([len(row) for row in rows], device=device)
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(list(row), device=device) for row in rows], batch_first=True)
    return ids, torch.arange(ids.shape[1], device=device) < lengths[:, None]


def _states(
    bank: Bank, decoder: PreTrainedModel, points: Mapping[int, Hookpoint], ids: Tensor, cache: DynamicCache
) -> Tensor:
    """Return what the encoders read of ids [B, K], [N, B, K, W]; blocks behind the last hookpoint do not run."""
    states: list[Tensor] = []

    def visit(_layer: int, stream: Tensor, output: Tensor) -> None:
        states.append(read_by(bank.encoder, stream, output))

    run(decoder, ids, points, visit, past_key_values=cache, use_cache=True)
    return torch.stack(states)
