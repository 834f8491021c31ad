"""How probable it is that passages answer a question, judged by the search alone, before a word is generated.

A logistic regression on three signals, fitted on development questions of which an eighth are answered by no document.
Each was asked of its document, of all documents, and of these among thousands of passages; `diekae-research documents
--more FILE --calibrate` repeats the fit. Questions about other subjects than the documents' get a low confidence. A
question about a document's subject that the document does not answer wrongly gets a high one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from diekae.store import FoundPassage

WEIGHTS = (0.126, 4.337, 3.622, -0.156)
"""Weights of the constant, the coverage, the likeness, and the logarithm of the number of passages in the store."""
THRESHOLD = 0.7575
"""From this confidence on a question counts as answered; one in twelve answerable development questions is below it."""


def confidence_of(passages: Sequence[FoundPassage]) -> float:
    """Return the probability that the passages answer the question they were found by, from 0 to 1.

    Only the highest coverage and the highest likeness among them count. Without passages the probability is 0.
    """
    if not passages:
        return 0.0
    logit = sum(weight * signal for weight, signal in zip(WEIGHTS, (1.0, *signals_of(passages)), strict=True))
    return 1 / (1 + math.exp(-logit))


def signals_of(passages: Sequence[FoundPassage]) -> tuple[float, float, float]:
    """Return the highest coverage, the highest likeness, and the logarithm of the number of passages in the store."""
    coverage = max(passage.coverage for passage in passages)
    return coverage, max(passage.likeness for passage in passages), math.log(passages[0].searched)
