"""The weights and the threshold of the confidence, fitted on the development questions in stores of three sizes."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from diekae.answering import pick
from diekae.answering.confidence import signals_of
from diekae.model import DiekaeModel
from diekae.store import KnowledgeStore
from diekae.store.embedders import Embedder
from diekae_research.documents.measure import fill_store
from diekae_research.documents.questions import questions_of

REFUSED = 0.08
"""Share of answerable development questions that may fall below the threshold."""
DECAY = 1e-4
"""Weight of the squared weights beside the mean cross-entropy; the first weight, of 1, has none."""


def calibrate(model: DiekaeModel, more_texts: Sequence[str], embedder: Embedder) -> dict[str, Any]:
    """Fit the confidence on the development questions by logistic regression.

    Each question is asked of its document alone, of all documents, and of all documents among more texts.

    Args:
        model: Its tokenizer cuts the documents.
        more_texts: Texts of the largest store; there is none if they are empty.
        embedder: The stores'.

    Returns:
        ``weights`` of 1 and of the signals; the ``threshold``; and for each size of store the ``auroc`` and how many
        ``near``, ``far`` and ``answerable`` questions are below the threshold, of how many.
    """
    pairs = questions_of("development")
    documents = {document["id"]: document["text"] for document, _ in pairs}
    rows: list[tuple[str, str, tuple[float, float, float]]] = []
    stores: dict[str, Sequence[str]] = {**{key: [text] for key, text in documents.items()}, "all": []}
    if more_texts:
        stores["more"] = more_texts
    for name, texts in stores.items():
        asked = [question for document, question in pairs if document["id"] == name or name not in documents]
        with tempfile.TemporaryDirectory() as folder:
            store = KnowledgeStore(folder, model, embedder=embedder)
            if name in documents:
                store.add(texts, prepare=False)
            else:
                fill_store(store, texts)
            size = "one" if name in documents else name
            rows += [(size, q["near"] or "answerable", signals_of(pick(store, q["question"]))) for q in asked]
            store.close()
    return _fit(rows)


def _fit(rows: Sequence[tuple[str, str, tuple[float, float, float]]]) -> dict[str, Any]:
    """Fit the confidence to each question's size of store, kind and signals."""
    sizes, kinds, signals = (np.array(column) for column in zip(*rows, strict=True))
    answerable = kinds == "answerable"
    fit = LogisticRegression(C=1 / (2 * DECAY * len(rows)), tol=1e-8, max_iter=2000).fit(signals, answerable)
    confidences = fit.predict_proba(signals)[:, 1]
    threshold = float(np.quantile(confidences[answerable], REFUSED))
    figures: dict[str, Any] = {"weights": [*fit.intercept_.tolist(), *fit.coef_[0].tolist()], "threshold": threshold}
    for size in dict.fromkeys(sizes.tolist()):
        chosen = sizes == size
        refused = confidences < threshold
        figures[size] = {
            "auroc": float(roc_auc_score(answerable[chosen], confidences[chosen])),
            "said_not_there": {
                kind: [int(refused[chosen & (kinds == kind)].sum()), int((chosen & (kinds == kind)).sum())]
                for kind in ("near", "far", "answerable")
            },
        }
    return figures
