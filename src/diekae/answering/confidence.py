"""How probable it is that passages answer a question, estimated from the search alone, before generation.

A logistic regression on two signals, fitted on development questions; no document answers one in eight of them.
`diekae-research documents --calibrate` repeats the fit. A question about a subject that is in no document gets a low
confidence. A question about a document's subject gets a high one, even if the document does not answer it: a known
limit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from diekae.store import FoundPassage

WEIGHTS = (-0.96, 4.24, 4.16)
"""Weights of the constant, the coverage and the likeness."""
THRESHOLD = 0.77
"""Least confidence at which a question counts as answered; one in twelve answerable development questions is below."""


def confidence_of(passages: Sequence[FoundPassage]) -> float:
    """Return the probability that the passages of a search answer its question, from 0 to 1.

    Only the highest coverage and the highest likeness among them count. Without passages the probability is 0.
    """
    if not passages:
        return 0.0
    bias, coverage, likeness = WEIGHTS
    best_coverage = max(passage.coverage for passage in passages)
    best_likeness = max(passage.likeness for passage in passages)
    logit = bias + coverage * best_coverage + likeness * best_likeness
    return 1 / (1 + math.exp(-logit))
