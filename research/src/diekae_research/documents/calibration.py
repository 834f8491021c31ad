"""The confidences, fitted: that of the search, and that of what the decoder reads; and the threshold of each.

The search's weights are fitted on the development questions. Those of the decoder's states are fitted on a data set's
questions (:mod:`diekae_research.documents.reading`). Both thresholds are chosen on the development questions, each of
which is asked in stores of three sizes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from diekae.answering import pick
from diekae.answering.confidence import Confidence, signals_of
from diekae.answering.reading_confidence import ReadingConfidence, read_fitted, write_fitted
from diekae.data.example import Example
from diekae.model import DiekaeModel
from diekae.progress import Progress, silent
from diekae.store import KnowledgeStore
from diekae.store.embedders import Embedder
from diekae_research.documents import reading
from diekae_research.documents.measure import fill_store
from diekae_research.documents.questions import questions_of

REFUSED = 0.08
"""Share of answerable development questions that may fall below the threshold."""
DECAY = 1e-4
"""Weight of the squared weights beside the mean cross-entropy; the first weight, of 1, has none."""


class Asked(NamedTuple):
    """A development question that was asked of one store."""

    size: str
    """Of the store: ``one`` document, ``all`` documents, or ``more`` texts beside them."""
    kind: str
    """``near``, ``far`` or ``answerable``."""
    signals: tuple[float, float, float]
    """Of the search."""
    read: float
    """Confidence of what the decoder read; 0 if none was fitted."""


def calibrate(
    model: DiekaeModel,
    examples: Sequence[Example],
    embedder: Embedder,
    out: Path | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Fit the confidence of the search, and with ``out`` that of what the decoder reads.

    Each development question is asked of its document alone, of all documents, and of these among the examples' texts.

    Args:
        model: Decoder and bank.
        examples: Questions of a data set with their documents; without any, there is no third store.
        embedder: The stores'.
        out: File to which the confidence of what the decoder reads is written, beside those of other formats.
        progress: Called as the work goes on.

    Returns:
        ``search`` and, with ``out``, ``reading``, each with what was fitted, the ``threshold``, and for each size of
        store the ``auroc`` and how many ``near``, ``far`` and ``answerable`` questions are below the threshold, of how
        many.
    """
    fit = None if out is None else reading.fit(model, examples, embedder, progress)
    fitted = fit and ReadingConfidence(model.bank.decoder, model.config.format, fit.layer, fit.weights, 0.0)
    asked = _ask(model, examples, embedder, fitted)
    answerable = np.array([row.kind == "answerable" for row in asked])
    signals = np.array([row.signals for row in asked])
    search = LogisticRegression(C=1 / (2 * DECAY * len(asked)), tol=1e-8, max_iter=2000).fit(signals, answerable)
    weights = [*search.intercept_.tolist(), *search.coef_[0].tolist()]
    figures: dict[str, Any] = {"search": {"weights": weights, **_judged(asked, search.predict_proba(signals)[:, 1])}}
    if fit and fitted and out is not None:
        judged = _judged(asked, np.array([row.read for row in asked]))
        figures["reading"] = {"layer": fit.layer, "auroc_by_layer": fit.auroc, "pairs": fit.pairs, **judged}
        others = [each for each in (read_fitted(out) if out.is_file() else []) if each.format != fitted.format]
        write_fitted(out, [*others, fitted._replace(threshold=judged["threshold"])])
    return figures


def _ask(
    model: DiekaeModel, examples: Sequence[Example], embedder: Embedder, fitted: ReadingConfidence | None
) -> list[Asked]:
    """Ask the development questions in the stores of all sizes."""
    pairs = questions_of("development")
    documents = {document["id"]: document["text"] for document, _ in pairs}
    more = list(dict.fromkeys("\n".join(example.knowledge) for example in examples if example.knowledge))
    stores: dict[str, Sequence[str]] = {**{key: [text] for key, text in documents.items()}, "all": []}
    if more:
        stores["more"] = more
    rows = []
    for name, texts in stores.items():
        with tempfile.TemporaryDirectory() as folder:
            store = KnowledgeStore(folder, model, embedder=embedder)
            if name in documents:
                store.add(texts, prepare=False)
            else:
                fill_store(store, texts)
            for document, question in pairs:
                if name in documents and document["id"] != name:
                    continue
                found = pick(store, question["question"])
                read = 0.0
                if fitted and found:
                    confidence = Confidence(model, question["question"], found, fitted=fitted)
                    confidence.read(model.tokenize(question["question"])["input_ids"], store.read(found))
                    read = confidence.value
                size = "one" if name in documents else name
                rows.append(Asked(size, question["near"] or "answerable", signals_of(found), read))
            store.close()
    return rows


def _judged(asked: Sequence[Asked], confidences: NDArray[np.float64]) -> dict[str, Any]:
    """Return the threshold, and what it does in the stores of each size."""
    sizes, kinds = (np.array(column) for column in ([row.size for row in asked], [row.kind for row in asked]))
    answerable = kinds == "answerable"
    threshold = float(np.quantile(confidences[answerable], REFUSED))
    figures: dict[str, Any] = {"threshold": threshold}
    refused = confidences < threshold
    for size in dict.fromkeys(sizes.tolist()):
        chosen = sizes == size
        figures[size] = {
            "auroc": float(roc_auc_score(answerable[chosen], confidences[chosen])),
            "said_not_there": {
                kind: [int(refused[chosen & (kinds == kind)].sum()), int((chosen & (kinds == kind)).sum())]
                for kind in ("near", "far", "answerable")
            },
        }
    return figures
