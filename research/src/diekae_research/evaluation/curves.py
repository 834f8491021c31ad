"""Curves: how quality changes with more documents, and with longer ones.

D(K, x) and ours know the same documents. D(K, x) reads them as one text, as many as fit its window beside the relevant
one. ``recovered`` is always a share of one gap: from D(x) to D(K, x) with the example's own document alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from diekae.data.example import Example
from diekae.data.prompt import Prompt, truncate_knowledge
from diekae.evaluation.metrics import Scores
from diekae.fingerprint import window
from diekae.inject.hooks import frozen
from diekae.knowledge import PreparedKnowledge
from diekae.model import DiekaeModel
from diekae.model.relevance import relevant
from diekae.progress import Progress, silent
from diekae.run.score import Way, score, target_logits
from diekae_research.evaluation.document_pool import DocumentPool

DOCUMENTS = (1, 2, 8, 32)
"""Numbers of documents known at once, of which one is relevant."""
LENGTHS = (100, 200, 400, 800, 1600, 4000)
"""Tokens of K: the relevant document among others."""


def measure_curves(
    model: DiekaeModel,
    examples: Sequence[Example],
    *,
    documents: Sequence[int] = DOCUMENTS,
    lengths: Sequence[int] = LENGTHS,
    batch_size: int = 8,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Measure all curves of a bank.

    Args:
        model: Decoder and bank.
        examples: Held-out examples; several documents of an example are joined by line breaks.
        documents: Numbers of documents; those that the examples do not reach are left out.
        lengths: Numbers of tokens; each is measured on the examples whose document is not longer.
        batch_size: Examples a pass.
        progress: Called as the work goes on.

    Returns:
        ``n``, and the points of ``documents`` and ``lengths``, each with ``n``, ``tokens``, ``fit`` (the share of the
        documents that D(K, x) has room for), ``nll`` in nats a token, ``recovered`` and ``recovered_prompted``.

    Raises:
        ValueError: An example has no knowledge, or a number is not positive.
    """
    if not examples or not all(example.knowledge for example in examples):
        raise ValueError("curves need examples, each with knowledge; at least one has none.")
    if min((batch_size, *documents, *lengths)) < 1:
        raise ValueError(f"documents={documents}, lengths={lengths} and batch_size={batch_size} must be positive.")
    with torch.no_grad(), frozen(model.decoder):
        bench = _CurveBench(model, examples, batch_size, progress)
        return {
            "n": len(examples),
            "documents": bench.sweep("documents", documents),
            "lengths": bench.sweep("lengths", lengths),
        }


class _CurveBench:
    """A bank and its examples, their prepared documents, and the passes that every curve needs."""

    def __init__(self, model: DiekaeModel, examples: Sequence[Example], batch_size: int, progress: Progress) -> None:
        prompter = model.need_prompter()
        self.model, self.prompter, self.batch_size, self.progress = model, prompter, batch_size, progress
        self.window = window(model.decoder)
        self.prompts = truncate_knowledge([prompter.prompt(e) for e in examples], None, self.window)
        self.pool = DocumentPool.of(examples, prompter)
        self.all_prepared: dict[int, PreparedKnowledge] = {}
        self.bare = self.nll("own document", "bare", self.prompts)
        self.prompted = self.nll("own document", "prompted", self.prompts)

    def prepared(self, document: int) -> PreparedKnowledge:
        """Return a prepared document."""
        if document not in self.all_prepared:
            self.all_prepared[document] = self.model.prepare(self.pool.texts[document])
        return self.all_prepared[document]

    def nll(
        self, label: str, way: Way, prompts: Sequence[Prompt], all_prepared: Sequence[PreparedKnowledge | None] = ()
    ) -> list[Tensor]:
        """Return the NLL of each example's target tokens in nats, [tokens] each; progress is reported by the label."""

        def logits(rows: Sequence[int]) -> Tensor:
            chosen = [all_prepared[row] for row in rows] if way == "ours" else None
            return target_logits(self.model, [prompts[row] for row in rows], way, all_prepared=chosen)

        return score(logits, prompts, self.batch_size, partial(self.progress, f"{label}: {way}"))

    def sweep(self, name: str, numbers: Sequence[int]) -> list[dict[str, Any]]:
        """Measure a point for each number of ``documents``, or of tokens (``lengths``), that some example reaches."""
        choose = self.pool.several if name == "documents" else self.pool.long
        points = []
        for number in numbers:
            choices = {row: choose(row, number) for row in range(len(self.prompts))}
            chosen = {row: documents for row, documents in choices.items() if documents is not None}
            if chosen:
                points.append({name: number, **self.point(f"{name} {number}", chosen, apart=name == "documents")})
        return points

    def point(self, label: str, chosen: dict[int, list[int]], apart: bool) -> dict[str, Any]:
        """Measure examples that know other documents beside their own.

        Args:
            label: What progress is reported by.
            chosen: The documents of each example.
            apart: Whether they are prepared one by one, and those that the prompt is about are read; otherwise they are
                prepared as one text.
        """
        fitting = [self._fitting(row, documents) for row, documents in chosen.items()]
        prompts = [
            dataclasses.replace(self.prompts[row], knowledge=self._tokens(documents))
            for row, documents in zip(chosen, fitting, strict=True)
        ]
        ours = [
            self._chosen(self.prompts[row], documents) if apart else self.model.prepare(self._text(documents))
            for row, documents in chosen.items()
        ]
        read = self.nll(label, "prompted", truncate_knowledge(prompts, None, self.window))
        losses = [self.bare[row] for row in chosen], [self.prompted[row] for row in chosen], read
        low, high, prompted, injected = (_mean(part) for part in (*losses, self.nll(label, "ours", prompts, ours)))
        return {
            "fit": sum(map(len, fitting)) / sum(map(len, chosen.values())),
            "n": len(chosen),
            "tokens": sum(map(len, losses[0])),
            "nll": {"bare": low, "prompted": prompted, "ours": injected},
            "recovered": Scores(low, high, injected).recovered,
            "recovered_prompted": Scores(low, high, prompted).recovered,
        }

    def _chosen(self, prompt: Prompt, documents: Sequence[int]) -> PreparedKnowledge | None:
        """Return what generation reads of documents that were prepared one by one; None if the prompt is about none."""
        all_prepared = [self.prepared(document) for document in documents]
        numbers = relevant(self.model, prompt.anchor + prompt.input, all_prepared)
        return PreparedKnowledge.join([all_prepared[number] for number in numbers]) if numbers else None

    def _text(self, documents: Sequence[int]) -> str:
        return "\n".join(self.pool.texts[document] for document in documents)

    def _tokens(self, documents: Sequence[int]) -> tuple[int, ...]:
        return self.prompter.knowledge(self._text(documents))

    def _fitting(self, row: int, documents: list[int]) -> list[int]:
        """Leave out documents, never the relevant one, until the others fit the window."""
        prompt, fitting = self.prompts[row], list(documents)
        room = self.window - 2 * len(prompt.anchor) - len(prompt.input) - len(prompt.target)
        while len(fitting) > 1 and len(self._tokens(fitting)) > room:
            fitting.remove(next(other for other in reversed(fitting) if other != self.pool.document_of[row]))
        return fitting


def _mean(losses: Sequence[Tensor]) -> float:
    return float(torch.cat(list(losses)).mean())
