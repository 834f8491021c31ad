"""Curves: what becomes of the gap with more documents, longer ones, ones that say nothing, and along the target.

D(K, x) and ours know the same documents; D(K, x) reads them as one text, as many as fit its window beside the one that
matters. ``recovered`` is always the share of one gap: from D(x) to D(K, x) with the example's own document alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from diekae.data.example import Example
from diekae.data.prompt import IGNORED, Prompt, truncate_knowledge
from diekae.evaluation.metrics import Scores
from diekae.fingerprint import window
from diekae.inject.hooks import frozen
from diekae.knowledge import PreparedKnowledge
from diekae.model import DiekaeModel
from diekae.progress import Progress, silent
from diekae.run.score import batches, lay_out, score, target_logits
from diekae.training.objectives import DifferenceObjective, unexplained

DOCUMENTS = (1, 2, 8, 32)
"""Documents known at once, of which one matters."""
LENGTHS = (100, 200, 400, 800, 1600, 4000)
"""Tokens of K: the document that matters among others."""
POSITIONS = ((0, 1), (1, 2), (2, 4), (4, 8), (8, 16), (16, None))
"""First and last (exclusive) target token of each group; None is the end."""
_FILLED = 0.8
"""A knowledge of a wanted length has at least this share of it; examples that reach no more are left out."""


@dataclass(frozen=True)
class Library:
    """The documents of all examples, each once."""

    texts: tuple[str, ...]
    """The documents."""
    tokens: tuple[int, ...]
    """The length of each, in its template."""
    own: tuple[int, ...]
    """The document of each example."""

    def others(self, example: int) -> Iterator[int]:
        """Yield all documents but the example's own, in an order of its own."""
        own, count = self.own[example], len(self.texts)
        return ((own + step) % count for step in range(1, count))

    def several(self, example: int, number: int) -> list[int] | None:
        """Return so many documents, the example's own at a place that changes from example to example."""
        if number > len(self.texts):
            return None
        found = [other for other, _ in zip(self.others(example), range(number - 1), strict=False)]
        found.insert(example % number, self.own[example])
        return found

    def long(self, example: int, length: int) -> list[int] | None:
        """Return whole documents of about so many tokens together, the example's own in their middle."""
        found, total = [self.own[example]], self.tokens[self.own[example]]
        if total > length:
            return None
        for other in self.others(example):
            if total + self.tokens[other] <= length:
                found.insert(len(found) % 2 * len(found), other)
                total += self.tokens[other]
        return found if total >= _FILLED * length else None


def measure_curves(
    model: DiekaeModel,
    examples: Sequence[Example],
    *,
    format: str | None = None,
    documents: Sequence[int] = DOCUMENTS,
    lengths: Sequence[int] = LENGTHS,
    batch_size: int = 8,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Measure all curves of a bank.

    Args:
        model: Decoder and bank.
        examples: Held-out examples; several documents of one are joined by line breaks.
        format: Text around x and y; the bank's own if None.
        documents: Numbers of documents; a number that the examples do not reach is left out.
        lengths: Numbers of tokens; each is measured on the examples whose document is not longer.
        batch_size: Examples a pass.
        progress: Told which curve is measured and how far it is.

    Returns:
        ``n``, the points of ``documents``, ``lengths``, ``positions`` (target tokens) and ``copies`` (whether the
        target stands in K), each with ``n``, ``tokens``, ``nll`` in nats a token, ``recovered`` and
        ``recovered_prompted``; positions also with the ``unexplained`` share of the differences where they are
        predicted; and ``unrelated``: ``harm`` in nats a token and ``kl`` to D(x) with another's K, None where all
        examples know the same.

    Raises:
        ValueError: An example has no knowledge, or a number is not positive.
    """
    if not examples or not all(example.knowledge for example in examples):
        raise ValueError("curves need examples, each with knowledge; at least one has none.")
    if min((batch_size, *documents, *lengths)) < 1:
        raise ValueError(f"documents={documents}, lengths={lengths} and batch_size={batch_size} must be positive.")
    with frozen(model.decoder), torch.no_grad():
        progress("documents", 0, len(documents))
        bench = _Bench(model, examples, format, batch_size)
        points: dict[str, list[dict[str, Any]]] = {"documents": [], "lengths": []}
        for name, wanted, pick in (
            ("documents", documents, bench.library.several),
            ("lengths", lengths, bench.library.long),
        ):
            for done, number in enumerate(wanted, start=1):
                chosen = {row: found for row in range(len(examples)) if (found := pick(row, number)) is not None}
                if chosen:
                    point = bench.point(chosen, apart=name == "documents")
                    points[name].append({name: number, **point})
                progress(name, done, len(wanted))
        progress("unrelated knowledge", 0, 1)
        points |= {"positions": bench.positions(), "copies": bench.copies(examples)}
        unrelated = bench.unrelated()
        progress("unrelated knowledge", 1, 1)
    return {"n": len(examples), **points, "unrelated": unrelated}


class _Bench:
    """A bank and its examples, with what is known of them: prepared documents, and the passes every curve needs."""

    def __init__(self, model: DiekaeModel, examples: Sequence[Example], format: str | None, batch_size: int) -> None:
        prompter = model.need_prompter()
        self.model, self.prompter, self.batch_size = model, prompter, batch_size
        self.room = window(model.decoder)
        self.prompts = truncate_knowledge([prompter.prompt(e, format) for e in examples], None, self.room)
        texts = ["\n".join(example.knowledge) for example in examples]
        distinct = tuple(dict.fromkeys(texts))
        tokens = tuple(len(prompter.knowledge(text)) for text in distinct)
        self.library = Library(distinct, tokens, tuple(distinct.index(text) for text in texts))
        self.all_prepared: dict[int, PreparedKnowledge] = {}
        rows = range(len(examples))
        self.bare = self.nll("bare", self.prompts)
        self.prompted = self.nll("prompted", self.prompts)
        self.ours = self.nll("ours", self.prompts, [self.prepared(self.library.own[row]) for row in rows])

    def prepared(self, document: int) -> PreparedKnowledge:
        """Return a prepared document."""
        if document not in self.all_prepared:
            self.all_prepared[document] = self.model.prepare(self.library.texts[document])
        return self.all_prepared[document]

    def nll(self, how: str, prompts: Sequence[Prompt], all_prepared: Sequence[PreparedKnowledge] = ()) -> list[Tensor]:
        """Return the NLL of each example's target tokens in nats, [tokens] each."""
        return score(lambda rows: self._logits(how, prompts, all_prepared, rows), prompts, self.batch_size)

    def _logits(
        self, how: str, prompts: Sequence[Prompt], all_prepared: Sequence[PreparedKnowledge], rows: Sequence[int]
    ) -> Tensor:
        """Return logits [labels, vocabulary] of some examples."""
        known = [all_prepared[row] for row in rows] if how == "ours" else None
        return target_logits(self.model, [prompts[row] for row in rows], how, all_prepared=known)

    def point(self, chosen: dict[int, list[int]], apart: bool) -> dict[str, Any]:
        """Measure examples that know other documents beside their own.

        Args:
            chosen: The documents of each example.
            apart: Whether they are prepared apart and joined, or prepared as one text.
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
        prompted = self.nll("prompted", truncate_knowledge(prompts, None, self.room))
        return {
            "fit": sum(map(len, fitting)) / sum(map(len, chosen.values())),
            **self.figures(list(chosen), prompted, self.nll("ours", prompts, ours)),
        }

    def _text(self, documents: Sequence[int]) -> str:
        return "\n".join(self.library.texts[document] for document in documents)

    def _tokens(self, documents: Sequence[int]) -> tuple[int, ...]:
        return self.prompter.knowledge(self._text(documents))

    def _fitting(self, row: int, documents: list[int]) -> list[int]:
        """Leave out documents, never the one that matters, until the rest fits the window."""
        prompt, kept = self.prompts[row], list(documents)
        room = self.room - 2 * len(prompt.anchor) - len(prompt.input) - len(prompt.target)
        while len(kept) > 1 and len(self._tokens(kept)) > room:
            kept.remove(next(other for other in reversed(kept) if other != self.library.own[row]))
        return kept

    def figures(self, rows: Sequence[int], prompted: Sequence[Tensor], ours: Sequence[Tensor]) -> dict[str, Any]:
        """Return the figures of some examples, given the passes over what they know."""
        return _figures([self.bare[r] for r in rows], [self.prompted[r] for r in rows], prompted, ours)

    def positions(self) -> list[dict[str, Any]]:
        """Return the figures of each group of target tokens, and the unexplained share where they are predicted."""
        found = []
        for (first, end), share in zip(POSITIONS, self._unexplained(), strict=True):
            rows = [row for row, loss in enumerate(self.bare) if len(loss) > first]
            if rows:
                cut = [[passes[row][first:end] for row in rows] for passes in (self.bare, self.prompted, self.ours)]
                found.append(
                    {"from": first, "to": end, **_figures(cut[0], cut[1], cut[1], cut[2]), "unexplained": share}
                )
        return found

    def _unexplained(self) -> list[float | None]:
        """Return the share of the differences' variance that is left, mean over layers; None where none is injected."""
        objective = DifferenceObjective(self.model)
        count, width = self.model.bank.bias.shape
        parts = torch.zeros(len(POSITIONS), count, 2 + width, dtype=torch.float64)
        positions = [0] * len(POSITIONS)
        for rows, _ in batches(self.prompts, self.batch_size):
            batch = lay_out(self.model, [self.prompts[row] for row in rows])
            by_attention = self.model.attached.by_attention
            found = batch if by_attention else vars(objective.collect(batch))
            predicts = (batch["labels"] != IGNORED).roll(-1, 1)
            token = predicts.long().cumsum(1) - 1
            for group, (first, end) in enumerate(POSITIONS):
                places = batch["receives"] & predicts & (token >= first) & (token < (end or self.room))
                if places.any():
                    sums = objective(**{**found, "counted" if by_attention else "receives": places})
                    parts[group] += sums.parts.cpu()
                    positions[group] += int(sums.positions)
        shares = [unexplained(part, max(1, number)) for part, number in zip(parts, positions, strict=True)]
        return [None if share is None else float(share.mean()) for share in shares]

    def copies(self, examples: Sequence[Example]) -> list[dict[str, Any]]:
        """Return the figures of targets that stand in K, whatever their case, and of those that do not."""
        found = []
        for copied in (True, False):
            rows = [
                row
                for row, example in enumerate(examples)
                if (example.target.strip(" .").lower() in "\n".join(example.knowledge).lower()) is copied
            ]
            if rows:
                passes = [[whole[row] for row in rows] for whole in (self.prompted, self.ours)]
                found.append({"copied": copied, **self.figures(rows, *passes)})
        return found

    def unrelated(self) -> dict[str, Any] | None:
        """Measure what knowledge costs that says nothing about x: another example's."""
        if len(self.library.texts) < 2:
            return None
        others = [self.prepared(next(self.library.others(row))) for row in range(len(self.prompts))]
        divergence, harm, tokens = 0.0, 0.0, 0
        for rows, _ in batches(self.prompts, self.batch_size):
            labels = torch.tensor([token for row in rows for token in self.prompts[row].target])
            ours, bare = (
                self._logits(how, self.prompts, others, rows).float().log_softmax(-1) for how in ("ours", "bare")
            )
            labels = labels.to(ours.device)
            divergence += float(F.kl_div(ours, bare, log_target=True, reduction="sum"))
            harm += float(F.nll_loss(ours, labels, reduction="sum") - F.nll_loss(bare, labels, reduction="sum"))
            tokens += len(labels)
        return {"n": len(self.prompts), "tokens": tokens, "harm": harm / tokens, "kl": divergence / tokens}


def _figures(
    bare: Sequence[Tensor], alone: Sequence[Tensor], prompted: Sequence[Tensor], ours: Sequence[Tensor]
) -> dict[str, Any]:
    """Return counts, NLL and shares of the gap between D(x) and D(K, x) with the right document alone."""
    low, high, read, injected = (float(torch.cat(list(losses)).mean()) for losses in (bare, alone, prompted, ours))
    return {
        "n": len(bare),
        "tokens": sum(map(len, bare)),
        "nll": {"bare": low, "prompted": read, "ours": injected},
        "recovered": Scores(low, high, injected).recovered,
        "recovered_prompted": Scores(low, high, read).recovered,
    }
