"""How probable it is that passages answer a question: from the search, or from what the decoder made of them.

- The search: a logistic regression on three of its signals, for any decoder. A question about a subject that is in no
  document gets a low confidence. A question about a document's subject gets a high one, even if the document does not
  answer it.
- The decoder: see :mod:`diekae.answering.reading_confidence`. It replaces the confidence of the search for the decoders
  and formats that it was fitted for.

`diekae-research documents --more FILE --calibrate` fits both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from diekae.answering.reading_confidence import question_states, reading_confidence_for
from diekae.knowledge import PreparedKnowledge
from diekae.model import DiekaeModel
from diekae.store import FoundPassage
from diekae.store.embedders import EmbedderKind

_IN_PARTS = ("prefill_chunk_size", "assistant_early_exit")
"""Settings of ``generate`` with which the first forward does not read all of x in all layers."""


class Confidence:
    """The confidence of one answer: of the search at first, and of the decoder once it has read the question."""

    def __init__(
        self,
        model: DiekaeModel,
        question: str,
        passages: Sequence[FoundPassage],
        threshold: float | None = None,
        format: str | None = None,
    ) -> None:
        """Estimate from the search.

        Args:
            model: Decoder and bank.
            question: The question.
            passages: What the search returned for it.
            threshold: Least confidence at which the question counts as answered; the one that was fitted if None.
            format: Format that the question is asked in; the model's own if None.
        """
        self._model, self._question, self._format = model, question, format
        self._fitted = reading_confidence_for(model, format)
        self._states: list[Tensor] = []
        self._passages = passages
        if threshold is None:
            threshold = self._fitted.threshold if self._fitted else _search_threshold(passages)
        self.threshold = threshold
        """From this confidence on the question counts as answered."""

    @contextmanager
    def listening(self, ids: Tensor, prepared: PreparedKnowledge) -> Iterator[None]:
        """Estimate anew from the first forward inside the block, in which the decoder reads x [1, L] with K.

        It is a run of its own if ``generate`` would read x in parts, or in some layers first.
        """
        settings = self._model.decoder.generation_config
        if any(getattr(settings, name, None) for name in _IN_PARTS):
            self.read(ids, prepared)
            yield
        else:
            with self._first_forward():
                yield

    @torch.no_grad()
    def read(self, ids: Tensor, prepared: PreparedKnowledge) -> None:
        """Estimate anew from a run of the decoder over x [1, L] with K."""
        if self._fitted is not None:
            with self._first_forward(), self._model.call_context(prepared, ids):
                self._model.decoder(input_ids=ids, logits_to_keep=1, use_cache=False)

    @contextmanager
    def _first_forward(self) -> Iterator[None]:
        """Estimate anew from the first forward inside the block."""
        if self._fitted is None:
            yield
            return
        tokens = len(self._model.need_prompter().input(self._question, self._format))
        with question_states(self._model, self._fitted.layer, [tokens]) as self._states:
            yield

    @property
    def value(self) -> float:
        """Return the probability that the passages answer the question, from 0 to 1."""
        if self._fitted is None or not self._states:
            return confidence_of(self._passages)
        return self._fitted(self._states[0][0], signals_of(self._passages))

    @property
    def answered(self) -> bool:
        """Tell whether the question counts as answered."""
        return self.value >= self.threshold

    def gate(self, show: Callable[[str], None]) -> Callable[[str], None]:
        """Return a function that passes texts on to ``show`` if the question counts as answered by then."""

        def show_if_answered(text: str) -> None:
            if self.answered:
                show(text)

        return show_if_answered


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


def _search_threshold(passages: Sequence[FoundPassage]) -> float:
    """Return the threshold for the confidence of a search; without passages nothing is answered."""
    return CALIBRATIONS[passages[0].embedder].threshold if passages else 1.0


def signals_of(passages: Sequence[FoundPassage]) -> tuple[float, float, float]:
    """Return the highest coverage, the highest likeness, and the logarithm of the number of passages in the store."""
    coverage = max(passage.coverage for passage in passages)
    return coverage, max(passage.likeness for passage in passages), math.log(passages[0].searched)
