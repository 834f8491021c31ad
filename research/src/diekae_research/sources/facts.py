"""Fictional documents with three questions each. They are invented here, so no model has read them.

    knowledge: The Trelvelisk Tower rises beside the old market of Reborpe. It measures 39 metres from the ground to the
               highest point. Its completion in 1808 was marked with music and free bread for the poor. It ends in a tin
               dome, which has to be cleaned every spring. Today the tower houses a school for bell ringers, which
               attracts many curious visitors.
    input:     What crowns the Trelvelisk Tower?
    target:    a tin dome

No data folder is needed: `diekae_research.fiction` writes the documents and their questions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from diekae.data.example import DataError, Example, Split, check_split
from diekae.fields import did_you_mean
from diekae_research.data.card import Card
from diekae_research.data.request import Request
from diekae_research.fiction import KINDS, QUESTIONS, write_documents

DOCUMENTS: dict[Split, int] = {"train": 3000, "validation": 300, "test": 300}
"""How many documents `load_source` writes; more if the limit needs more."""

CARD = Card(
    title="Fictional documents", licence="Apache-2.0, as the library", homepage="", origin="nowhere: generated here"
)


def load(request: Request) -> list[Example]:
    """Return examples from documents of all kinds; at least `DOCUMENTS`, and enough for the limit."""
    needed = math.ceil((request.limit or 0) / QUESTIONS)
    return facts(request.split, max(DOCUMENTS[request.split], needed), request.seed)


def facts(split: Split, documents: int, seed: int, kinds: Sequence[str] | None = None) -> list[Example]:
    """Write fictional documents and ask three questions about each.

    Nearly half of the documents mention a second entity of their kind, with another value of a fact that is asked for.
    So a reader must attend to the name in the question. A name belongs to one split whatever the seed: no name of the
    test split occurs in training.

    Args:
        split: Whose names to use.
        documents: How many documents.
        seed: Decides names, values, phrasings and order.
        kinds: Names of the kinds to write about, in turn; all when ``None``.

    Returns:
        Three examples a document, one document after the other.

    Raises:
        DataError: If a kind or the split is unknown, or `documents` is below 1.
    """
    if documents < 1:
        raise DataError(f"documents is {documents}; expected at least 1")
    names = list(KINDS) if kinds is None else list(kinds)
    for name in names:
        if name not in KINDS:
            raise DataError(f"unknown kind {name!r}; there are {', '.join(KINDS)}.{did_you_mean(name, list(KINDS))}")
    if not names:
        raise DataError(f"kinds is empty; expected some of {', '.join(KINDS)}, or None for all")
    return [
        Example((document.text,), question.text, question.answer)
        for document in write_documents(check_split(split), documents, seed, [KINDS[name] for name in names])
        for question in document.questions
    ]
