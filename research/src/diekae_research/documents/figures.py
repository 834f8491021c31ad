"""Figures of the document benchmark, from its answers and confidences, and the confidence's weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from diekae.answering import pick
from diekae.store import KnowledgeStore
from diekae_research.documents.questions import questions_of

REFUSED = 0.08
"""Share of answerable development questions that may fall below the threshold."""
DECAY = 1e-4
"""Weight of the squared weights beside the mean cross-entropy; the first weight, of 1, has none."""


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
    low, high = binomtest(right, n).proportion_ci(method="wilson")
    seconds = sum(row[way]["seconds"] for row in rows) / len(rows)
    return {"kinds": by_kind, "right": right, "n": n, "interval": [float(low), float(high)], "seconds": seconds}


def calibrate(store: KnowledgeStore) -> dict[str, Any]:
    """Fit the confidence on the development questions by logistic regression.

    Returns:
        ``weights`` of 1, coverage and likeness; the ``threshold``; the ``auroc``; and the shares of answerable
        (``refused``) and unanswerable (``said_not_there``) questions below the threshold.
    """
    signals, answerable = [], []
    for _, question in questions_of("development"):
        passages = pick(store, question["question"])
        signals.append([max(p.coverage for p in passages), max(p.likeness for p in passages)])
        answerable.append(question["kind"] != "unanswerable")
    fit = LogisticRegression(C=1 / (2 * DECAY * len(signals)), tol=1e-8, max_iter=2000).fit(signals, answerable)
    chances, wanted = fit.predict_proba(signals)[:, 1], np.array(answerable)
    threshold = float(np.quantile(chances[wanted], REFUSED))
    return {
        "weights": [*fit.intercept_.tolist(), *fit.coef_[0].tolist()],
        "threshold": threshold,
        "auroc": float(roc_auc_score(wanted, chances)),
        "refused": float((chances[wanted] < threshold).mean()),
        "said_not_there": float((chances[~wanted] < threshold).mean()),
    }
