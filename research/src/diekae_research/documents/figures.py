"""Figures of the document benchmark, from its answers and confidences, and the confidence's weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from diekae.answering import pick
from diekae.store import KnowledgeStore
from diekae_research.documents.questions import questions_of

REFUSED = 0.08
"""Share of answerable development questions that may fall below the threshold."""


def summary(rows: Sequence[dict[str, Any]], way: str) -> dict[str, Any]:
    """Return how many answers are right and empty, by kind, with the interval of all right ones, and mean seconds."""
    by_kind: dict[str, dict[str, int]] = {}
    for row in rows:
        if row["kind"] != "unanswerable":
            counts = by_kind.setdefault(row["kind"], {"right": 0, "empty": 0, "n": 0})
            counts["n"] += 1
            counts["right"] += row[way]["right"]
            counts["empty"] += not row[way]["text"]
    right, n = (sum(counts[name] for counts in by_kind.values()) for name in ("right", "n"))
    seconds = sum(row[way]["seconds"] for row in rows) / len(rows)
    return {"kinds": by_kind, "right": right, "n": n, "interval": wilson(right, n), "seconds": seconds}


def wilson(right: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson, 1927)."""
    share, width = right / n, z * z / n
    middle = share + width / 2
    spread = z * math.sqrt(share * (1 - share) / n + width / (4 * n))
    return (middle - spread) / (1 + width), (middle + spread) / (1 + width)


def auroc(scores: Sequence[tuple[float, bool]]) -> float:
    """Return the probability that an answerable question (True) has the higher confidence."""
    answerable, other = ([score for score, kind in scores if kind is wanted] for wanted in (True, False))
    higher = sum((a > b) + (a == b) / 2 for a in answerable for b in other)
    return higher / max(1, len(answerable) * len(other))


def calibrate(store: KnowledgeStore) -> dict[str, Any]:
    """Fit the confidence on the development questions by logistic regression.

    Returns:
        ``weights`` of 1, coverage and likeness; the ``threshold``; the ``auroc``; and the shares of answerable
        (``refused``) and unanswerable (``said_not_there``) questions below the threshold.
    """
    signals, answerable = [], []
    for _, question in questions_of("development"):
        passages = pick(store, question["question"])
        signals.append([1.0, max(p.coverage for p in passages), max(p.likeness for p in passages)])
        answerable.append(float(question["kind"] != "unanswerable"))
    x, y = torch.tensor(signals), torch.tensor(answerable)
    weights = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.binary_cross_entropy_with_logits(x @ weights, y) + 1e-4 * weights[1:].square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    chances = torch.sigmoid(x @ weights).detach()
    threshold = float(chances[y == 1].quantile(REFUSED))
    return {
        "weights": weights.tolist(),
        "threshold": threshold,
        "auroc": auroc(list(zip(chances.tolist(), (y == 1).tolist(), strict=True))),
        "refused": float((chances[y == 1] < threshold).float().mean()),
        "said_not_there": float((chances[y == 0] < threshold).float().mean()),
    }
