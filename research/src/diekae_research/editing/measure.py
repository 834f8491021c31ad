"""Measurements of edits, stored on disk, so that an interrupted run continues and no prompt is scored twice.

A prompt for which no edit opens gets the bare decoder's output bit for bit (tests check this), so it is scored once for
all methods; and a prompt for which the same edits open is scored once for all stores that hold them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
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
"""Prompts that are measured before their values are written."""
GENERATED = {"generated": "n_es", "begins": "n_es", "generated_ps": "n_ps", "begins_ps": "n_ps", "unchanged": "n_near"}
"""Figures of generated texts, and the column that says which cases count."""


class MeasurementStore:
    """Measured numbers and texts, by a digest of what they depend on."""

    def __init__(self, path: Path) -> None:
        """Read the measurements of earlier runs."""
        self.path, self.values = path, dict[str, Any]()
        for line in path.read_text().splitlines() if path.is_file() else ():
            with suppress(ValueError):  # a crash cut the line off
                key, value = json.loads(line)
                self.values[key] = value

    def find(self, keys: Sequence[object], measure: Callable[[list[int]], Sequence[Any]]) -> list[Any]:
        """Return the value of each key; ``measure`` gets the positions of missing ones, some at a time."""
        names = [hashlib.sha256(repr(key).encode()).hexdigest()[:24] for key in keys]
        positions = {name: position for position, name in enumerate(names)}
        missing = [position for name, position in positions.items() if name not in self.values]
        for start in range(0, len(missing), CHUNK):
            chunk = missing[start : start + CHUNK]
            measured = {names[position]: value for position, value in zip(chunk, measure(chunk), strict=True)}
            self.values |= measured
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                file.writelines(json.dumps([key, value]) + "\n" for key, value in measured.items())
        return [self.values[name] for name in names]


class EditBench:
    """Scores methods on cases, and stores what it measures."""

    def __init__(
        self, prompter: Prompter, bare: Fitted, store: MeasurementStore, tag: str, progress: Progress = silent
    ) -> None:
        """Begin.

        Args:
            prompter: Lays prompts out.
            bare: D(x).
            store: Measurements of earlier runs.
            tag: Digest of what every value depends on.
            progress: Called as the work goes on.
        """
        self.prompter, self.bare, self.store, self.tag, self.progress = prompter, bare, store, tag, progress

    def _sources(self, fitted: Fitted, prompts: Sequence[Prompt]) -> list[tuple[Any, ...]]:
        """Return what each value depends on besides the prompt; nothing where it is the bare decoder's."""
        if isinstance(fitted, EditedMethod):
            return [tuple(texts) for texts in fitted.statements(prompts)]
        return [(fitted.name, prompt.knowledge) if fitted.knowledge else () for prompt in prompts]

    def nll(self, fitted: Fitted, prompts: Sequence[Prompt]) -> Numbers:
        """Return the NLL of each prompt's target; see :func:`diekae_research.evaluation.scoring.nll`."""

        def score(method: Fitted, chosen: list[Prompt]) -> Sequence[float]:
            self.progress(f"scoring {fitted.name}", len(self.store.values), len(self.store.values))
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

        def measure(positions: list[int]) -> list[Any]:
            values: dict[int, Any] = {}
            for method, is_bare in ((self.bare, True), (fitted, False)):
                rows = [position for position in positions if (not sources[position]) is is_bare]
                if rows:
                    values |= dict(zip(rows, run(method, [prompts[row] for row in rows]), strict=True))
            return [values[position] for position in positions]

        keys = [
            (self.tag, kind, source, p.anchor, p.input, () if kind == "text" else p.target)
            for p, source in zip(prompts, sources, strict=True)
        ]
        return self.store.find(keys, measure)

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
