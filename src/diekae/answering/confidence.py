"""How probable it is that passages answer a question, estimated from the search alone, before generation.

A logistic regression on three signals, fitted on development questions; no document answers one in eight of them. Each
question was asked of its document, of all documents, and of these among thousands of passages;
`diekae-research documents --more FILE --calibrate` repeats the fit. A question about a subject that is in no document
gets a low confidence. A question about a document's subject gets a high one, even if the document does not answer it: a
known limit.
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
    """Return the probability that the passages of a search answer its question, from 0 to 1.

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
