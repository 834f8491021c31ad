"""Fits the confidence of what the decoder reads: pairs of questions and texts, their states, and the regression.

Each question of a data set gives up to three pairs: with passages of its own document, which answer it; with the most
similar passages of another document; and with its own passages without the sentences that have the answer. The last
ones are on the question's very subject and do not answer it. Questions about invented documents give the first and the
last.
"""

from __future__ import annotations

import random
import re
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import Tensor

from diekae.answering.answer import CANDIDATES, PASSAGES
from diekae.answering.reading_confidence import question_states
from diekae.data.batch import pad_left
from diekae.data.example import Example
from diekae.evaluation import answers
from diekae.inject.hookpoints import find_blocks
from diekae.knowledge import Document
from diekae.model import DiekaeModel
from diekae.progress import Progress, silent
from diekae.store import FoundPassage, KnowledgeStore
from diekae.store.catalogue import document_id
from diekae.store.embedders import Embedder
from diekae_research.fiction import KINDS, write_documents

QUESTIONS = 1200
"""Questions that are used, at most."""
FACTS = 200
"""Invented documents whose questions are used too."""
HELD_OUT = 0.25
"""Share of the questions on which the layer is chosen."""
PENALTY = 1e-3
"""Inverse strength of the regression's penalty, for standardised states: ``C`` of scikit-learn."""
SHORTEST = 15
"""Fewest words of a text that is left when the answer's sentences are removed."""
BATCH = 8


class Pair(NamedTuple):
    """A question, a text, and whether the text answers it."""

    question: str
    text: str
    answers: bool


class Fit(NamedTuple):
    """A regression on the states after one layer."""

    layer: int
    weights: tuple[float, ...]
    """One for each element of the mean state."""
    constant: float
    auroc: dict[int, float]
    """By layer, on the questions that were held out."""
    pairs: int


def pairs_of(model: DiekaeModel, examples: Sequence[Example], embedder: Embedder) -> list[list[Pair]]:
    """Return the pairs of each question, drawn with a fixed seed, whose passages the search finds."""
    texts = list(dict.fromkeys(text for example in examples for text in example.knowledge))
    known = [example for example in examples if len(example.knowledge) == 1]
    drawn = random.Random(0).sample(known, min(QUESTIONS, len(known)))
    with tempfile.TemporaryDirectory() as folder:
        store = KnowledgeStore(folder, model, embedder=embedder)
        store.add(texts, prepare=False)
        try:
            rows = [_pairs(example, store.search(example.input, CANDIDATES)) for example in drawn]
        finally:
            store.close()
    for document in write_documents("train", FACTS, 0, list(KINDS.values())):
        rows += [with_and_without(question.text, document.text, question.answer) for question in document.questions]
    return [row for row in rows if row]


def _pairs(example: Example, found: Sequence[FoundPassage]) -> list[Pair]:
    """Return the pairs of one question; none if its own passages do not have the answer."""
    own = document_id(example.knowledge[0])
    pairs = with_and_without(example.input, _joined([p for p in found if p.id == own][:PASSAGES]), example.target)
    others = [p for p in found if p.id != own and not answers.right(p.text, [example.target])]
    similar = _joined([passage for passage in others if passage.id == others[0].id][:PASSAGES])
    return [*pairs, Pair(example.input, similar, False)] if pairs and similar else pairs


def with_and_without(question: str, text: str, answer: str) -> list[Pair]:
    """Return the pairs of a text and of what is left of it without the answer's sentences, if that is a text still.

    Empty if the text does not have the answer.
    """
    if not answers.right(text, [answer]):
        return []
    rest = " ".join(part for part in re.split(r"(?<=[.!?])\s+", text) if not answers.right(part, [answer]))
    pairs = [Pair(question, text, True)]
    return [*pairs, Pair(question, rest, False)] if len(rest.split()) >= SHORTEST else pairs


def _joined(passages: Sequence[FoundPassage]) -> str:
    """Return passages of one document as one text, in its order."""
    return "\n\n".join(passage.text for passage in sorted(passages, key=lambda passage: passage.start))


@torch.no_grad()
def states_of(
    model: DiekaeModel,
    pairs: Sequence[tuple[str, Document]],
    layers: Sequence[int],
    progress: Progress = silent,
) -> NDArray[np.float32]:
    """Return the mean state of each question's tokens after each layer, with K injected: [pairs, layers, W]."""
    prompter = model.need_prompter()
    inputs = [prompter.input(question) for question, _ in pairs]
    order = sorted(range(len(pairs)), key=lambda number: len(pairs[number][1]))
    rows: dict[int, Tensor] = {}
    for first in range(0, len(order), BATCH):
        batch = order[first : first + BATCH]
        ids, mask = pad_left(
            [[*model.anchor, *inputs[n]] for n in batch], prompter.tokenizer.pad_token_id, model.device
        )
        with ExitStack() as exits:
            tokens = [len(inputs[number]) for number in batch]
            found = [exits.enter_context(question_states(model, layer, tokens)) for layer in layers]
            exits.enter_context(model.call_context([pairs[number][1] for number in batch], ids, mask))
            model.decoder(input_ids=ids, attention_mask=mask, logits_to_keep=1, use_cache=False)
        rows |= dict(zip(batch, torch.stack([states for (states,) in found], 1), strict=True))
        progress("pairs read", len(rows), len(pairs))
    return torch.stack([rows[number] for number in range(len(pairs))]).cpu().numpy()


def fit(model: DiekaeModel, examples: Sequence[Example], embedder: Embedder, progress: Progress = silent) -> Fit:
    """Fit the confidence for a model's decoder and format; the layer is chosen on questions that are held out."""
    by_question = pairs_of(model, examples, embedder)
    pairs = [pair for row in by_question for pair in row]
    held = np.array([number < HELD_OUT * len(by_question) for number, row in enumerate(by_question) for _ in row])
    right = np.array([pair.answers for pair in pairs])
    depth = len(find_blocks(model.decoder))
    layers = range(depth // 3, max(depth // 3 + 1, 3 * depth // 4), 2)
    states = states_of(model, [(pair.question, pair.text) for pair in pairs], layers, progress)
    auroc = {}
    for number, layer in enumerate(layers):
        weights = regression(states[~held, number], right[~held])
        auroc[layer] = float(roc_auc_score(right[held], states[held, number] @ weights[:-1]))
    layer = max(auroc, key=lambda layer: auroc[layer])
    *weights, constant = regression(states[:, list(layers).index(layer)], right).tolist()
    return Fit(layer, tuple(weights), constant, auroc, len(pairs))


def regression(states: NDArray[np.float32], right: NDArray[np.bool_], penalty: float = PENALTY) -> NDArray[np.float64]:
    """Return the weights of the elements of a state, and last a constant."""
    mean, spread = states.mean(0), states.std(0) + 1e-6
    fitted = LogisticRegression(C=penalty, max_iter=1000).fit((states - mean) / spread, right)
    weights = fitted.coef_[0] / spread
    return np.append(weights, fitted.intercept_[0] - weights @ mean)
