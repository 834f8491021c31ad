"""Batches: the two runs of several prompts as padded tensors.

    run with K     anchor  K  x  y        (anchor "own": anchor  K  anchor  x  y)
    run over x     anchor     x  y

Shapes: B rows, F columns of the run with K, T columns of the run over x, K knowledge tokens, W decoder
width.
"""

from collections.abc import Sequence
from typing import NotRequired, TypedDict

import torch
from torch import Tensor

from diekae.data.prompt import Prompt

IGNORED = -100
"""Label of a position that is not scored."""


class Batch(TypedDict):
    """Both runs of a batch, padded on the right; a causal decoder needs no attention mask for this padding.

    The last four keys are present if any row has documents that are prepared separately, P in all.
    """

    full_ids: Tensor
    """Tokens of the run with K, int64 [B, F]."""
    input_ids: Tensor
    """Tokens of the run over x, int64 [B, T]."""
    input_mask: Tensor
    """Real columns of ``input_ids``, bool [B, T]."""
    receives: Tensor
    """Columns of ``input_ids`` that receive a difference, bool [B, T]."""
    labels: Tensor
    """Target tokens at their columns of ``input_ids``, elsewhere -100; int64 [B, T]."""
    offset: Tensor
    """Column p of ``input_ids`` is column p + offset of ``full_ids``, for columns that receive; int64 [B]."""
    knowledge_start: Tensor
    """First column of K in ``full_ids``, int64 [B]."""
    knowledge_mask: Tensor
    """Real tokens of K, bool [B, K]."""
    document_ids: NotRequired[Tensor]
    """Anchor and document, int64 [P, D]."""
    document_mask: NotRequired[Tensor]
    """Real tokens of the document, without the anchor; bool [P, longest document]."""
    document_start: NotRequired[Tensor]
    """First column of the document in ``document_ids``, int64 [P]."""
    document_row: NotRequired[Tensor]
    """Row of the batch that the document belongs to, int64 [P], ascending."""


def collate(prompts: Sequence[Prompt], *, scope: str, anchor: str) -> Batch:
    """Lay out a batch of B prompts, by the scope and anchor of :class:`DiekaeConfig`.

    K may be empty: the run over x needs none.
    """
    full, short, receives, labels, offsets = [], [], [], [], []
    for prompt in prompts:
        a, k, x, y = prompt.anchor, prompt.knowledge, prompt.input, prompt.target
        second_anchor = a if anchor == "own" else ()
        full.append(a + k + second_anchor + x + y)
        short.append(a + x + y)
        offsets.append(len(k) + len(second_anchor))
        receives.append([anchor == "own"] * len(a) + [True] * len(x) + [scope == "all"] * len(y))
        labels.append([IGNORED] * (len(a) + len(x)) + list(y))
    batch = Batch(
        full_ids=_pad(full, 0),
        input_ids=_pad(short, 0),
        input_mask=_pad([[True] * len(row) for row in short], False),
        receives=_pad(receives, False),
        labels=_pad(labels, IGNORED),
        offset=torch.tensor(offsets),
        knowledge_start=torch.tensor([len(prompt.anchor) for prompt in prompts]),
        knowledge_mask=_pad([[True] * len(prompt.knowledge) for prompt in prompts], False),
    )
    if any(prompt.apart for prompt in prompts):
        rows = [(row, prompt.anchor, document) for row, prompt in enumerate(prompts) for document in prompt.documents]
        batch["document_ids"] = _pad([anchor + document for _, anchor, document in rows], 0)
        batch["document_mask"] = _pad([[True] * len(document) for _, _, document in rows], False)
        batch["document_start"] = torch.tensor([len(anchor) for _, anchor, _ in rows])
        batch["document_row"] = torch.tensor([row for row, _, _ in rows])
    return batch


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Return the batch on another device."""
    return {name: tensor.to(device) for name, tensor in batch.items()}  # type: ignore[return-value, attr-defined]


def run_of(batch: Batch, knowledge: bool) -> tuple[Tensor, Tensor]:
    """Return a run's ids, with K or over x, [B, columns]; and how far right of their labels its targets are, [B]."""
    if knowledge:
        return batch["full_ids"], batch["offset"]
    return batch["input_ids"], batch["input_ids"].new_zeros(len(batch["input_ids"]))


def knowledge_columns(batch: Batch, length: int) -> Tensor:
    """Return the columns of K's tokens in a run of ``length`` columns, int64 [B, K]; those of padding lie inside it."""
    tokens = torch.arange(batch["knowledge_mask"].shape[1], device=batch["full_ids"].device)
    return (batch["knowledge_start"][:, None] + tokens).clamp(max=length - 1)


def knowledge_ids(batch: Batch) -> Tensor:
    """Return K's tokens, int64 [B, K]."""
    return torch.gather(batch["full_ids"], 1, knowledge_columns(batch, batch["full_ids"].shape[1]))


def columns_with_knowledge(batch: Batch) -> Tensor:
    """Return, for each column of the run over x, its column in the run with K; int64 [B, T]."""
    columns = torch.arange(batch["input_ids"].shape[1], device=batch["input_ids"].device)[None]
    after_anchor = columns >= batch["knowledge_start"][:, None]
    shifted = columns + torch.where(after_anchor | batch["receives"], batch["offset"][:, None], 0)
    return shifted.clamp(max=batch["full_ids"].shape[1] - 1)


def positions_with_knowledge(batch: Batch) -> Tensor:
    """Return ``position_ids`` for the run with K, int64 [B, F], where x has the positions that it has without K."""
    columns = torch.arange(batch["full_ids"].shape[1], device=batch["full_ids"].device)
    return columns[None] - batch["offset"][:, None]


def take_columns(states: Tensor, columns: Tensor) -> Tensor:
    """Take columns [B, C] of states [B, F, W]; returns [B, C, W]."""
    return torch.gather(states, 1, columns[..., None].expand(-1, -1, states.shape[-1]))


def pad_left(rows: Sequence[Sequence[int]], padding: int | None, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return ids and attention mask of B prompts, padded on the left as generation needs; both int64 [B, longest]."""
    length = max(map(len, rows))
    ids = torch.tensor([[padding or 0] * (length - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask


def _pad(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Return rows padded on the right to the longest; bool if ``value`` is a bool, else int64."""
    width = max(len(row) for row in rows)
    padded = [list(row) + [value] * (width - len(row)) for row in rows]
    dtype = torch.bool if isinstance(value, bool) else torch.long  # explicit: an empty list implies no type
    return torch.tensor(padded, dtype=dtype).reshape(len(rows), width)
