"""Knowledge of a batch's rows: prepared from what callers give, padded to one length, and split into rows again.

Shapes: N encoders, B rows, S slots.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diekae.encoders import KnowledgeBatch
from diekae.knowledge.prepared import PreparedKnowledge, check_together

Document = str | PreparedKnowledge
Knowledge = Document | Sequence[Document | Sequence[Document] | None] | None
"""One document for all rows; or a list with one entry per row: a document, a list of documents, or None."""
Select = Callable[[list[PreparedKnowledge], int], list[PreparedKnowledge]]
"""Returns those of the documents listed for a row that the row reads, perhaps none; the second argument is the row's
number."""


def batch_knowledge(rows: Sequence[PreparedKnowledge | None]) -> KnowledgeBatch:
    """Pad the prepared knowledge of B rows to the longest. Rows of None have no slots; at least one row has some."""
    device = next(row.device for row in rows if row is not None)
    token_counts = torch.tensor([0 if row is None else row.token_count for row in rows], device=device)
    anchor = _pad(
        [None if row is None else row.anchor for row in rows],
        [None if row is None else row.anchor_positions for row in rows],
        token_counts,
    )
    batch = _pad(
        [None if row is None else row.tensors for row in rows],
        [None if row is None else row.positions for row in rows],
        token_counts,
        anchor,
    )
    assert batch is not None, "prepared knowledge has tensors"
    return batch


def split_batch(
    batch: KnowledgeBatch,
    anchors: Sequence[Sequence[int]],
    bank: str = "",
    bare_anchor: Mapping[str, Tensor] | None = None,
) -> list[PreparedKnowledge]:
    """Return each row of a batch without padding, with the tokens of its anchor; gradients are kept.

    The other arguments are fields of :class:`PreparedKnowledge`, the same for all rows.
    """
    return [
        PreparedKnowledge(
            tensors=_row(batch, row),
            token_count=token_count,
            bank=bank,
            anchor={} if batch.anchor is None else _row(batch.anchor, row),
            anchor_ids=() if batch.anchor is None else tuple(anchors[row]),
            bare_anchor=dict(bare_anchor or {}),
            positions=None if batch.positions is None else batch.positions[row, batch.mask[row]],
        )
        for row, token_count in enumerate(batch.token_count.tolist())
    ]


def _row(batch: KnowledgeBatch, row: int) -> dict[str, Tensor]:
    """Return the slots of one row, [N, S, …] by name."""
    return {name: tensor[:, row, batch.mask[row]] for name, tensor in batch.tensors.items()}


def _pad(
    rows: Sequence[dict[str, Tensor] | None],
    positions: Sequence[Tensor | None],
    token_counts: Tensor,
    anchor: KnowledgeBatch | None = None,
) -> KnowledgeBatch | None:
    """Pad the tensors [N, S, …] by name and the positions [S] of B rows; None if no row has tensors."""
    if not any(rows):
        return None
    device = token_counts.device
    lengths = [next(iter(row.values())).shape[1] if row else 0 for row in rows]
    length = max(lengths)
    mask = torch.arange(length, device=device)[None] < torch.tensor(lengths, device=device)[:, None]
    full = length > 0 and min(lengths) == length
    return KnowledgeBatch(
        _pad_tensors(rows, lengths), mask, token_counts, full, _pad_positions(positions, length, device), anchor
    )


def _pad_tensors(rows: Sequence[dict[str, Tensor] | None], lengths: Sequence[int]) -> dict[str, Tensor]:
    """Return the tensors of all rows as [N, B, S, …] by name."""
    first: Mapping[str, Tensor] = next(row for row in rows if row)
    if all(row is first for row in rows):  # all rows share one document: expand it without a copy
        return {name: tensor[:, None].expand(-1, len(rows), *tensor.shape[1:]) for name, tensor in first.items()}
    tensors = {}
    for name, like in first.items():
        padded = like.new_zeros((like.shape[0], len(rows), max(lengths), *like.shape[2:]))
        for number, row in enumerate(rows):
            if row:
                padded[:, number, : lengths[number]] = row[name].to(padded)
        tensors[name] = padded
    return tensors


def _pad_positions(positions: Sequence[Tensor | None], length: int, device: torch.device) -> Tensor | None:
    """Return the positions of all rows' slots, int64 [B, S]; None if no row has any."""
    if all(row is None for row in positions):
        return None
    padded = torch.zeros(len(positions), length, dtype=torch.long, device=device)
    for number, row in enumerate(positions):
        if row is not None:
            padded[number, : len(row)] = row
    return padded


def knowledge_of_rows(
    knowledge: Knowledge,
    rows: int,
    prepare: Callable[[str, int], PreparedKnowledge],
    bank: str,
    device: torch.device,
    select: Select | None = None,
) -> list[PreparedKnowledge | None]:
    """Return prepared knowledge on a device, or None, for each of B rows.

    ``prepare`` prepares a text for the row of a number, by a bank. A row reads all of its list's documents if there is
    no ``select``.

    Raises:
        ValueError: The list does not have one entry per row, the list of a row is empty, or prepared knowledge is of
            another bank.
        TypeError: A value is not a text, prepared knowledge or a list of these.
    """

    def prepare_row(row: Any, number: int) -> PreparedKnowledge | None:
        if row is None:
            return None
        if isinstance(row, str):
            return prepare(row, number)
        if isinstance(row, PreparedKnowledge):
            _check_bank(row, bank)
            return row.to(device)
        if not isinstance(row, list | tuple):
            raise TypeError(_not_knowledge(row))
        documents = [prepared for document in row if (prepared := prepare_row(document, number)) is not None]
        if not documents:
            raise ValueError(
                f"a row's knowledge is the list {list(row)!r}; name a document, or give None for no knowledge."
            )
        check_together(documents)
        chosen = documents if select is None else select(documents, number)
        return PreparedKnowledge.join(chosen) if chosen else None

    if knowledge is None or isinstance(knowledge, PreparedKnowledge):
        return [prepare_row(knowledge, 0)] * rows
    if isinstance(knowledge, str):
        knowledge = [knowledge] * rows
    if not isinstance(knowledge, list | tuple):
        raise TypeError(_not_knowledge(knowledge))
    if len(knowledge) != rows:
        raise ValueError(
            f"knowledge has {len(knowledge)} entries for {rows} rows; give one entry a row (a document, a list of "
            "documents, or None). Several documents for one row are a list inside the list."
        )
    return [prepare_row(row, number) for number, row in enumerate(knowledge)]


def _check_bank(prepared: PreparedKnowledge, bank: str) -> None:
    if prepared.bank != bank:
        raise ValueError(
            f"this knowledge was prepared by bank {prepared.bank}, but this bank is {bank}; "
            "prepare the knowledge again."
        )


def _not_knowledge(value: object) -> str:
    advice = "; read the file first: path.read_text()" if isinstance(value, Path) else ""
    return f"knowledge is {value!r}; expected a text, what `prepare` returned, or a list of these, one a row{advice}."
