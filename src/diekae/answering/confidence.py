"""How sure it is that documents answer a question, from what was found alone: before a word is generated.

A logistic regression on two signals, fitted on the development questions of benchmarks/answers, of which an eighth
are answered by no document: `diekae-research documents --calibrate`. It knows questions about other
things; one about the very thing a document is about, that the document does not answer, it takes for answered.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from diekae.store import Found

WEIGHTS = (-0.96, 4.24, 4.16)
"""Of 1, coverage and likeness."""
THRESHOLD = 0.77
"""Least confidence that counts as answered: one in twelve development questions with an answer stays below."""


def confidence_of(found: Sequence[Found]) -> float:
    """Return the probability that passages answer the question they were found by, from 0 to 1.

    It is that of the one that covers most of the question, and of the one most like it.
    """
    if not found:
        return 0.0
    bias, coverage, likeness = WEIGHTS
    logit = bias + coverage * max(one.coverage for one in found) + likeness * max(one.likeness for one in found)
    return 1 / (1 + math.exp(-logit))
