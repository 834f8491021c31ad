"""How probable it is that passages answer a question, judged by the search alone, before a word is generated.

A logistic regression on two signals, fitted on development questions of which an eighth are answered by no document;
`diekae-research documents --calibrate` repeats the fit. Questions about other subjects than the documents' get a low
confidence. A question about a document's subject that the document does not answer wrongly gets a high one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from diekae.store import FoundPassage

WEIGHTS = (-0.96, 4.24, 4.16)
"""Weights of the constant, the coverage and the likeness."""
THRESHOLD = 0.77
"""From this confidence on a question counts as answered; one in twelve answerable development questions is below it."""


def confidence_of(passages: Sequence[FoundPassage]) -> float:
    """Return the probability that the passages answer the question they were found by, from 0 to 1.

    Only the highest coverage and the highest likeness among them count. Without passages the probability is 0.
    """
    if not passages:
        return 0.0
    bias, coverage, likeness = WEIGHTS
    best_coverage = max(passage.coverage for passage in passages)
    best_likeness = max(passage.likeness for passage in passages)
    logit = bias + coverage * best_coverage + likeness * best_likeness
    return 1 / (1 + math.exp(-logit))
