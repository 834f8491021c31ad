"""The confidences, fitted: that of the search, and that of what the decoder reads; and the threshold of each.

The weights of the decoder's states are fitted on a data set's questions (:mod:`diekae_research.documents.reading`). The
search's weights, in both confidences, and the thresholds are fitted on the development questions, each of which is
asked in stores of three sizes.
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
from diekae.answering.confidence import signals_of
from diekae.answering.reading_confidence import ReadingConfidence, read_fitted, write_fitted
from diekae.data.example import Example
from diekae.model import DiekaeModel
from diekae.progress import Progress, silent
from diekae.store import KnowledgeStore
from diekae.store.embedders import Embedder
from diekae_research.documents import reading
from diekae_research.documents.measure import fill_store, texts_of
from diekae_research.documents.questions import found_answer, questions_of

REFUSED = 0.08
"""Share of the development questions that may fall below the threshold: of all answerable ones for the search, of those
whose passages answer them for what the decoder reads."""
DECAY = 1e-4
"""Weight of the squared weights beside the mean cross-entropy; the first weight, of 1, has none."""


class Asked(NamedTuple):
    """A development question that was asked of one store."""

    size: str
    """Of the store: ``one`` document, ``all`` documents, or ``more`` texts beside them."""
    kind: str
    """``near``, ``far`` or ``answerable``."""
    found: bool
    """Whether the passages that were found answer it."""
    signals: tuple[float, float, float]
    """Of the search."""
    read: float
    """Log-odds by the decoder's states alone; 0 if none were fitted."""


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
        many; ``not_found`` are those answerable ones whose passages do not answer them.
    """
    fit = None if out is None else reading.fit(model, examples, embedder, progress)
    asked = _ask(model, examples, embedder, fit)
    answerable, found = np.array([(row.kind == "answerable", row.found) for row in asked]).T
    signals = np.array([row.signals for row in asked])
    weights, confidences = _regression(signals, answerable)
    figures: dict[str, Any] = {"search": {"weights": weights, **_judged(asked, confidences, answerable)}}
    if fit and out is not None:
        states = np.array([row.read for row in asked])
        weights, confidences = _regression(np.column_stack([states, signals[:, 0], signals[:, 2]]), found)
        judged = _judged(asked, confidences, found)
        figures["reading"] = {"layer": fit.layer, "auroc_by_layer": fit.auroc, "pairs": fit.pairs, "weights": weights}
        figures["reading"] |= judged
        constant, of_states, *others = weights
        state_weights = tuple(of_states * weight for weight in fit.weights)
        in_all = (others[0], others[1], constant + of_states * fit.constant)
        fitted = ReadingConfidence(
            model.bank.decoder, model.config.format, fit.layer, state_weights, in_all, judged["threshold"]
        )
        kept = [each for each in (read_fitted(out) if out.is_file() else []) if each.format != fitted.format]
        write_fitted(out, [*kept, fitted])
    return figures


def _regression(signals: NDArray[np.float64], right: NDArray[np.bool_]) -> tuple[list[float], NDArray[np.float64]]:
    """Return the weights of 1 and of the signals, and the probability of each row."""
    fitted = LogisticRegression(C=1 / (2 * DECAY * len(right)), tol=1e-8, max_iter=2000).fit(signals, right)
    return [*fitted.intercept_.tolist(), *fitted.coef_[0].tolist()], fitted.predict_proba(signals)[:, 1]


def _ask(model: DiekaeModel, examples: Sequence[Example], embedder: Embedder, fit: reading.Fit | None) -> list[Asked]:
    """Ask the development questions in the stores of all sizes."""
    pairs = questions_of("development")
    documents = {document["id"]: document["text"] for document, _ in pairs}
    stores: dict[str, Sequence[str]] = {**{key: [text] for key, text in documents.items()}, "all": []}
    if more := texts_of(examples):
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
                if name not in documents or document["id"] == name:
                    size = "one" if name in documents else name
                    rows.append(_ask_one(model, store, size, document, question, fit))
            store.close()
    return rows


def _ask_one(
    model: DiekaeModel,
    store: KnowledgeStore,
    size: str,
    document: dict[str, Any],
    question: dict[str, Any],
    fit: reading.Fit | None,
) -> Asked:
    """Ask one question of one store."""
    found = pick(store, question["question"])
    read = 0.0
    if fit and found:
        states = reading.states_of(model, [(question["question"], store.read(found))], (fit.layer,))
        read = float(np.array(fit.weights) @ states[0, 0]) + fit.constant
    return Asked(
        size, question["near"] or "answerable", found_answer(document, question, found), signals_of(found), read
    )


def _judged(asked: Sequence[Asked], confidences: NDArray[np.float64], meant: NDArray[np.bool_]) -> dict[str, Any]:
    """Return the threshold, below which a share of the meant questions is, and what it does in stores of each size."""
    sizes, kinds = (np.array(column) for column in ([row.size for row in asked], [row.kind for row in asked]))
    answerable = kinds == "answerable"
    not_found = answerable & ~np.array([row.found for row in asked])
    threshold = float(np.quantile(confidences[meant], REFUSED))
    figures: dict[str, Any] = {"threshold": threshold}
    refused = confidences < threshold
    groups = {kind: kinds == kind for kind in ("near", "far", "answerable")} | {"not_found": not_found}
    for size in dict.fromkeys(sizes.tolist()):
        chosen = sizes == size
        figures[size] = {
            "auroc": float(roc_auc_score(answerable[chosen], confidences[chosen])),
            "said_not_there": {
                kind: [int(refused[chosen & rows].sum()), int((chosen & rows).sum())] for kind, rows in groups.items()
            },
        }
    return figures
