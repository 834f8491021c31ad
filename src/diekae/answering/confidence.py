"""How probable it is that passages answer a question, estimated from the search alone, before generation.

A logistic regression on three signals, fitted on development questions; no document answers one in eight of them. Each
question was asked of its document, of all documents, and of these among thousands of passages;
`diekae-research documents --more FILE --calibrate` repeats the fit, and with `--embedder` that of encoders, which was
made with all-MiniLM-L6-v2. A question about a subject that is in no document gets a low confidence. A question about a
document's subject gets a high one, even if the document does not answer it: a known limit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from diekae.store import FoundPassage
from diekae.store.embedders import EmbedderKind


class Calibration(NamedTuple):
    """How the signals of a search become a confidence."""

    weights: tuple[float, float, float, float]
    """Weights of the constant, the coverage, the likeness, and the logarithm of the number of passages in the store."""
    threshold: float
    """From this confidence on a question counts as answered; one in twelve answerable development questions is below
    it."""


CALIBRATIONS: dict[EmbedderKind, Calibration] = {
    "static": Calibration((0.126, 4.337, 3.622, -0.156), 0.7575),
    "encoder": Calibration((-0.876, 2.336, 5.767, -0.106), 0.7806),
}
"""By the kind of embedder, because the likeness of each has its own scale."""


def confidence_of(passages: Sequence[FoundPassage]) -> float:
    """Return the probability that the passages of a search answer its question, from 0 to 1.

    Only the highest coverage and the highest likeness among them count. Without passages the probability is 0.
    """
    if not passages:
        return 0.0
    weights = CALIBRATIONS[passages[0].embedder].weights
    logit = sum(weight * signal for weight, signal in zip(weights, (1.0, *signals_of(passages)), strict=True))
    return 1 / (1 + math.exp(-logit))


def signals_of(passages: Sequence[FoundPassage]) -> tuple[float, float, float]:
    """Return the highest coverage, the highest likeness, and the logarithm of the number of passages in the store."""
    coverage = max(passage.coverage for passage in passages)
    return coverage, max(passage.likeness for passage in passages), math.log(passages[0].searched)
