"""Measurements of edits: what a method scores and generates on cases, each prompt once.

A prompt for which no edit opens gets the bare decoder's output bit for bit (tests check this), so it is scored once for
all methods; and a prompt for which the same edits open is scored once for all methods that hold them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from diekae.data.prompt import Prompt, Prompter
from diekae.progress import Progress, silent
from diekae_research.data.case import Case
from diekae_research.editing.edited import EditedMethod
from diekae_research.editing.scores import ANSWER, matches, prompt_of, share, successes, summary
from diekae_research.evaluation.scoring import Numbers, harm, nll
from diekae_research.methods import Fitted

BATCH = 12
CHUNK = 4 * BATCH
"""Prompts between two reports of progress; those of one chunk are sorted by length."""
GENERATED = {"generated": "n_es", "begins": "n_es", "generated_ps": "n_ps", "begins_ps": "n_ps", "unchanged": "n_near"}
"""Figures of generated texts, and the column that says which cases count."""


class EditBench:
    """Scores methods on cases, and keeps what it measures in RAM."""

    def __init__(self, prompter: Prompter, bare: Fitted, progress: Progress = silent) -> None:
        """Begin.

        Args:
            prompter: Lays prompts out.
            bare: D(x).
            progress: Called as the work goes on.
        """
        self.prompter, self.bare, self.progress = prompter, bare, progress
        self._values: dict[tuple[Any, ...], Any] = {}

    def _sources(self, fitted: Fitted, prompts: Sequence[Prompt]) -> list[tuple[Any, ...]]:
        """Return what each value depends on besides the prompt; nothing where it is the bare decoder's."""
        if isinstance(fitted, EditedMethod):
            return [tuple(texts) for texts in fitted.statements(prompts)]
        return [(fitted.name, prompt.knowledge) if fitted.knowledge else () for prompt in prompts]

    def nll(self, fitted: Fitted, prompts: Sequence[Prompt]) -> Numbers:
        """Return the NLL of each prompt's target; see :func:`diekae_research.evaluation.scoring.nll`."""

        def score(method: Fitted, chosen: list[Prompt]) -> Sequence[float]:
            return [float(value) for value in nll(method, chosen, BATCH)]

        return np.array(self._measure(fitted, prompts, "nll", score))

    def texts(self, fitted: Fitted, prompts: Sequence[Prompt]) -> list[str]:
        """Return what is generated greedily behind each prompt."""

        def generate(method: Fitted, chosen: list[Prompt]) -> Sequence[str]:
            batches = [chosen[start : start + BATCH] for start in range(0, len(chosen), BATCH)]
            return [text for batch in batches for text in method.generate(batch, ANSWER)]

        return self._measure(fitted, prompts, "text", generate)

    def drift(self, fitted: Fitted, prompts: Sequence[Prompt]) -> list[float]:
        """Return KL(D(x) ‖ method) summed over each prompt's target, in nats; exactly 0 where no edit opens."""

        def diverge(method: Fitted, chosen: list[Prompt]) -> Sequence[float]:
            if method is self.bare:
                return [0.0] * len(chosen)
            return [float(value) for value in harm(self.bare, method, chosen, BATCH)]

        return self._measure(fitted, prompts, "kl", diverge)

    def _measure(
        self,
        fitted: Fitted,
        prompts: Sequence[Prompt],
        kind: str,
        run: Callable[[Fitted, list[Prompt]], Sequence[Any]],
    ) -> list[Any]:
        """Return a value for each prompt; missing ones are measured, by the bare decoder where no edit opens."""
        sources = self._sources(fitted, prompts)
        keys = [
            (kind, source, p.anchor, p.input, () if kind == "text" else p.target)
            for p, source in zip(prompts, sources, strict=True)
        ]
        missing = list({key: row for row, key in enumerate(keys) if key not in self._values}.values())
        for start in range(0, len(missing), CHUNK):
            chunk = missing[start : start + CHUNK]
            for method, is_bare in ((self.bare, True), (fitted, False)):
                rows = [row for row in chunk if (not sources[row]) is is_bare]
                if rows:
                    values = run(method, [prompts[row] for row in rows])
                    self._values |= zip((keys[row] for row in rows), values, strict=True)
            self.progress(f"{kind} of {fitted.name}", start + len(chunk), len(missing))
        return [self._values[key] for key in keys]

    def method(
        self, fitted: Fitted, cases: Sequence[Case], unrelated: Sequence[Prompt] = (), neighbours: int | None = None
    ) -> dict[str, Any]:
        """Score a method on cases: each case's columns, and their summary in per cent.

        Args:
            fitted: The method, with the edits in force.
            cases: The cases that are scored.
            unrelated: Texts on which it should change nothing.
            neighbours: Neighbourhood prompts of a case, at most.
        """
        columns = successes(self.prompter, lambda rows: self.nll(fitted, rows), cases, neighbours)
        columns |= self._generated(fitted, cases)
        columns |= self._unchanged(fitted, cases)
        figures = {"n": len(cases), **summary(columns)}
        for name, count in GENERATED.items():
            figures[name] = share(columns, name, count)
        figures["columns"] = {name: [round(value, 4) for value in column] for name, column in columns.items()}
        if unrelated:
            tokens = sum(len(prompt.target) for prompt in unrelated)
            figures["drift"] = float(np.sum(self.drift(fitted, unrelated))) / tokens
            figures["perplexity"] = float(np.exp(self.nll(fitted, unrelated).sum() / tokens))
            figures["perplexity_bare"] = float(np.exp(self.nll(self.bare, unrelated).sum() / tokens))
        return figures

    def _unchanged(self, fitted: Fitted, cases: Sequence[Case]) -> dict[str, list[float]]:
        """Return whether the text generated for the first neighbour is the bare decoder's."""
        rows = [row for row, case in enumerate(cases) if case.neighbours]
        prompts = [prompt_of(self.prompter, cases[n], cases[n].neighbours[0], cases[n].true) for n in rows]
        unchanged = np.zeros(len(cases))
        pairs = zip(self.texts(fitted, prompts), self.texts(self.bare, prompts), strict=True)
        unchanged[rows] = [float(text == bare) for text, bare in pairs]
        return {"unchanged": unchanged.tolist(), "n_near": [float(bool(case.neighbours)) for case in cases]}

    def _generated(self, fitted: Fitted, cases: Sequence[Case]) -> dict[str, list[float]]:
        """Return whether the generated text answers, or begins, with the target: for the prompt and a paraphrase."""
        columns: dict[str, list[float]] = {}
        for suffix, place in (("", 0), ("_ps", 1)):
            rows = [n for n, case in enumerate(cases) if place == 0 or case.paraphrases]
            texts = [(cases[n].prompt, *cases[n].paraphrases)[place] for n in rows]
            pairs = zip(rows, texts, strict=True)
            prompts = [prompt_of(self.prompter, cases[n], text, cases[n].new) for n, text in pairs]
            generated = self.texts(fitted, prompts)
            hits = [matches(text, cases[n].new) for n, text in zip(rows, generated, strict=True)]
            for name, column in (("generated", 0), ("begins", 1)):
                values = np.zeros(len(cases))
                values[rows] = [hit[column] for hit in hits]
                columns[name + suffix] = values.tolist()
        return columns
