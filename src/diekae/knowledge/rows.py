"""Knowledge as callers give it, turned into prepared knowledge for each row of a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from diekae.knowledge.prepared import PreparedKnowledge

Document = str | PreparedKnowledge
Knowledge = Document | Sequence[Document | Sequence[Document] | None] | None
"""One document for all rows; or a list with one entry per row: a document, a list of documents, or None."""


def knowledge_of_rows(
    knowledge: Knowledge, rows: int, prepare: Callable[[str], PreparedKnowledge], bank: str, device: torch.device
) -> list[PreparedKnowledge | None]:
    """Return prepared knowledge, or None, for each row of a batch.

    Args:
        knowledge: The caller's argument.
        rows: B.
        prepare: Prepares a text.
        bank: Fingerprint of the bank that will read it.
        device: Device of the result.

    Raises:
        ValueError: The list does not have one entry per row, the list of a row is empty, or prepared knowledge is of
            another bank.
        TypeError: A value is not a text, prepared knowledge or a list of these.
    """

    def prepare_row(row: Any) -> PreparedKnowledge | None:
        if row is None:
            return None
        if isinstance(row, str):
            return prepare(row)
        if isinstance(row, PreparedKnowledge):
            if row.bank != bank:
                raise ValueError(
                    f"this knowledge was prepared by bank {row.bank}, but this bank is {bank}; "
                    "prepare the knowledge again."
                )
            return row.to(device)
        if not isinstance(row, list | tuple):
            raise TypeError(_not_knowledge(row))
        documents = [prepared for document in row if (prepared := prepare_row(document)) is not None]
        if not documents:
            raise ValueError(
                f"a row's knowledge is the list {list(row)!r}; name a document, or give None for no knowledge."
            )
        return PreparedKnowledge.join(documents)

    if knowledge is None or isinstance(knowledge, str | PreparedKnowledge):
        return [prepare_row(knowledge)] * rows
    if not isinstance(knowledge, list | tuple):
        raise TypeError(_not_knowledge(knowledge))
    if len(knowledge) != rows:
        raise ValueError(
            f"knowledge has {len(knowledge)} entries for {rows} rows; give one entry a row (a document, a list of "
            "documents, or None). Several documents for one row are a list inside the list."
        )
    return [prepare_row(row) for row in knowledge]


def _not_knowledge(value: object) -> str:
    advice = "; read the file first: path.read_text()" if isinstance(value, Path) else ""
    return f"knowledge is {value!r}; expected a text, what `prepare` returned, or a list of these, one a row{advice}."
