"""Curves: how quality changes with more documents, longer ones, irrelevant ones, and along the target.

D(K, x) and ours know the same documents. D(K, x) reads them as one text, as many as fit its window beside the relevant
one. ``recovered`` is always a share of one gap: from D(x) to D(K, x) with the example's own document alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from diekae.data.batch import IGNORED
from diekae.data.example import Example
from diekae.data.prompt import Prompt, truncate_knowledge
from diekae.evaluation.metrics import Scores
from diekae.fingerprint import window
from diekae.inject.hooks import frozen
from diekae.knowledge import PreparedKnowledge
from diekae.model import DiekaeModel
from diekae.progress import Progress, silent
from diekae.run.score import Way, batches, lay_out, score, target_logits
from diekae.training.objectives import difference_objective, unexplained
from diekae_research.evaluation.document_pool import DocumentPool

DOCUMENTS = (1, 2, 8, 32)
"""Numbers of documents known at once, of which one is relevant."""
LENGTHS = (100, 200, 400, 800, 1600, 4000)
"""Tokens of K: the relevant document among others."""
POSITIONS = ((0, 1), (1, 2), (2, 4), (4, 8), (8, 16), (16, None))
"""First and last (exclusive) target token of each group; None is the end."""


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
        ``n``, and the points of ``documents``, ``lengths``, ``positions`` (target tokens) and ``copies`` (whether K
        contains the target), each with ``n``, ``tokens``, ``nll`` in nats a token, ``recovered`` and
        ``recovered_prompted``. Positions also have the ``unexplained`` share of the differences that predict them.
        ``unrelated`` holds ``harm`` in nats a token and ``kl`` to D(x) with another example's K; None where all
        examples have the same K.

    Raises:
        ValueError: An example has no knowledge, or a number is not positive.
    """
    if not examples or not all(example.knowledge for example in examples):
        raise ValueError("curves need examples, each with knowledge; at least one has none.")
    if min((batch_size, *documents, *lengths)) < 1:
        raise ValueError(f"documents={documents}, lengths={lengths} and batch_size={batch_size} must be positive.")
    with frozen(model.decoder), torch.no_grad():
        progress("documents", 0, len(documents))
        bench = _CurveBench(model, examples, batch_size)
        points = {
            "documents": bench.sweep("documents", documents, progress),
            "lengths": bench.sweep("lengths", lengths, progress),
            "positions": bench.positions(),
            "copies": bench.copies(examples),
        }
        progress("unrelated knowledge", 0, 1)
        unrelated = bench.unrelated()
        progress("unrelated knowledge", 1, 1)
    return {"n": len(examples), **points, "unrelated": unrelated}


class _CurveBench:
    """A bank and its examples, their prepared documents, and the passes that every curve needs."""

    def __init__(self, model: DiekaeModel, examples: Sequence[Example], batch_size: int) -> None:
        prompter = model.need_prompter()
        self.model, self.prompter, self.batch_size = model, prompter, batch_size
        self.window = window(model.decoder)
        self.prompts = truncate_knowledge([prompter.prompt(e) for e in examples], None, self.window)
        texts = ["\n".join(example.knowledge) for example in examples]
        distinct = tuple(dict.fromkeys(texts))
        tokens = tuple(len(prompter.knowledge(text)) for text in distinct)
        self.pool = DocumentPool(distinct, tokens, tuple(distinct.index(text) for text in texts))
        self.all_prepared: dict[int, PreparedKnowledge] = {}
        self.bare = self.nll("bare", self.prompts)
        self.prompted = self.nll("prompted", self.prompts)
        self.ours = self.nll("ours", self.prompts, [self.prepared(document) for document in self.pool.document_of])

    def prepared(self, document: int) -> PreparedKnowledge:
        """Return a prepared document."""
        if document not in self.all_prepared:
            self.all_prepared[document] = self.model.prepare(self.pool.texts[document])
        return self.all_prepared[document]

    def nll(self, way: Way, prompts: Sequence[Prompt], all_prepared: Sequence[PreparedKnowledge] = ()) -> list[Tensor]:
        """Return the NLL of each example's target tokens in nats, [tokens] each."""
        return score(lambda rows: self._logits(way, prompts, all_prepared, rows), prompts, self.batch_size)

    def _logits(
        self, way: Way, prompts: Sequence[Prompt], all_prepared: Sequence[PreparedKnowledge], rows: Sequence[int]
    ) -> Tensor:
        """Return logits [labels, vocabulary] of some examples."""
        chosen = [all_prepared[row] for row in rows] if way == "ours" else None
        return target_logits(self.model, [prompts[row] for row in rows], way, all_prepared=chosen)

    def sweep(self, name: str, numbers: Sequence[int], progress: Progress) -> list[dict[str, Any]]:
        """Measure a point for each number of ``documents``, or of tokens (``lengths``), that some example reaches."""
        choose = self.pool.several if name == "documents" else self.pool.long
        points = []
        for done, number in enumerate(numbers, start=1):
            choices = {row: choose(row, number) for row in range(len(self.prompts))}
            chosen = {row: documents for row, documents in choices.items() if documents is not None}
            if chosen:
                points.append({name: number, **self.point(chosen, apart=name == "documents")})
            progress(name, done, len(numbers))
        return points

    def point(self, chosen: dict[int, list[int]], apart: bool) -> dict[str, Any]:
        """Measure examples that know other documents beside their own.

        Args:
            chosen: The documents of each example.
            apart: Whether they are prepared one by one and joined; otherwise they are prepared as one text.
        """
        fitting = [self._fitting(row, documents) for row, documents in chosen.items()]
        prompts = [
            dataclasses.replace(self.prompts[row], knowledge=self._tokens(documents))
            for row, documents in zip(chosen, fitting, strict=True)
        ]
        ours = [
            PreparedKnowledge.join([self.prepared(document) for document in documents])
            if apart
            else self.model.prepare(self._text(documents))
            for documents in chosen.values()
        ]
        prompted = self.nll("prompted", truncate_knowledge(prompts, None, self.window))
        return {
            "fit": sum(map(len, fitting)) / sum(map(len, chosen.values())),
            **self._figures(list(chosen), prompted, self.nll("ours", prompts, ours)),
        }

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

    def _figures(self, rows: Sequence[int], prompted: Sequence[Tensor], ours: Sequence[Tensor]) -> dict[str, Any]:
        """Return the figures of some examples, given the passes over what they know."""
        return _figures([self.bare[r] for r in rows], [self.prompted[r] for r in rows], prompted, ours)

    def positions(self) -> list[dict[str, Any]]:
        """Return the figures of each group of target tokens, and the unexplained share where they are predicted."""
        points = []
        for (first, end), share in zip(POSITIONS, self._unexplained(), strict=True):
            rows = [row for row, losses in enumerate(self.bare) if len(losses) > first]
            if rows:
                bare, prompted, ours = (
                    [losses[row][first:end] for row in rows] for losses in (self.bare, self.prompted, self.ours)
                )
                figures = _figures(bare, prompted, prompted, ours)
                points.append({"from": first, "to": end, **figures, "unexplained": share})
        return points

    def _unexplained(self) -> list[float | None]:
        """Return the unexplained share of the differences' variance, mean over layers; None where none is injected."""
        objective = difference_objective(self.model)
        count, width = self.model.bank.bias.shape
        parts = torch.zeros(len(POSITIONS), count, 2 + width, dtype=torch.float64)
        positions = [0] * len(POSITIONS)
        by_attention = self.model.attached.by_attention
        for rows, _ in batches(self.prompts, self.batch_size):
            batch = lay_out(self.model, [self.prompts[row] for row in rows])
            inputs = batch if by_attention else vars(objective.collect(batch))
            predicts = (batch["labels"] != IGNORED).roll(-1, 1)
            token = predicts.long().cumsum(1) - 1
            for group, (first, end) in enumerate(POSITIONS):
                counted = batch["receives"] & predicts & (token >= first) & (token < (end or self.window))
                if counted.any():
                    sums = objective(**inputs, counted=counted)
                    parts[group] += sums.parts.cpu()
                    positions[group] += int(sums.positions)
        shares = [unexplained(part, max(1, number)) for part, number in zip(parts, positions, strict=True)]
        return [None if share is None else float(share.mean()) for share in shares]

    def copies(self, examples: Sequence[Example]) -> list[dict[str, Any]]:
        """Return the figures of targets that K contains, whatever their case, and of the others."""
        contained = [e.target.strip(" .").lower() in "\n".join(e.knowledge).lower() for e in examples]
        points = []
        for copied in (True, False):
            rows = [row for row, value in enumerate(contained) if value is copied]
            if rows:
                prompted, ours = ([losses[row] for row in rows] for losses in (self.prompted, self.ours))
                points.append({"copied": copied, **self._figures(rows, prompted, ours)})
        return points

    def unrelated(self) -> dict[str, Any] | None:
        """Measure the harm of irrelevant knowledge: another example's."""
        if len(self.pool.texts) < 2:
            return None
        others = [self.prepared(next(self.pool.others(row))) for row in range(len(self.prompts))]
        divergence, harm, tokens = 0.0, 0.0, 0
        for rows, _ in batches(self.prompts, self.batch_size):
            ours = self._logits("ours", self.prompts, others, rows).float().log_softmax(-1)
            bare = self._logits("bare", self.prompts, others, rows).float().log_softmax(-1)
            labels = torch.tensor([token for row in rows for token in self.prompts[row].target]).to(ours.device)
            divergence += float(F.kl_div(ours, bare, log_target=True, reduction="sum"))
            harm += float(F.nll_loss(ours, labels, reduction="sum") - F.nll_loss(bare, labels, reduction="sum"))
            tokens += len(labels)
        return {"n": len(self.prompts), "tokens": tokens, "harm": harm / tokens, "kl": divergence / tokens}


def _figures(
    bare: Sequence[Tensor], alone: Sequence[Tensor], prompted: Sequence[Tensor], ours: Sequence[Tensor]
) -> dict[str, Any]:
    """Return counts, NLL and shares of the gap between D(x) and D(K, x) with the relevant document alone."""
    low, high, read, injected = (float(torch.cat(list(losses)).mean()) for losses in (bare, alone, prompted, ours))
    return {
        "n": len(bare),
        "tokens": sum(map(len, bare)),
        "nll": {"bare": low, "prompted": read, "ours": injected},
        "recovered": Scores(low, high, injected).recovered,
        "recovered_prompted": Scores(low, high, read).recovered,
    }
