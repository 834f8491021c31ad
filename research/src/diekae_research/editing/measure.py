"""Measurements of edits: what is scored once is kept, on disk too, so that a run that was cut off goes on.

A prompt to which no edit speaks gets the bare decoder's output bit for bit (tests hold this), so it is scored once for
all methods that leave it alone; and a prompt to which the same edits speak once for all stores that hold them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diekae.data.prompt import Prompt, Prompter
from diekae.progress import Progress
from diekae_research.editing.asked import Asked
from diekae_research.editing.cases import Case
from diekae_research.editing.compare import UNTRAINED
from diekae_research.editing.scores import ANSWER, prompt_of, says, share, successes, summary
from diekae_research.evaluation.scoring import Sums, harm, nll
from diekae_research.methods import Fitted

BATCH = 12
GENERATED = {"generated": "n_es", "begins": "n_es", "generated_ps": "n_ps", "begins_ps": "n_ps", "unchanged": "n_near"}
"""What is told of generated texts, and which cases count for it."""


class Kept:
    """Numbers and texts that were measured, by what they depend on."""

    def __init__(self, path: Path | None) -> None:
        """Read what an earlier run has measured; with None nothing is kept beyond this process."""
        self.path, self.values = path, dict[str, Any]()
        if path is not None and path.is_file():
            for line in path.read_text().splitlines():
                try:
                    key, value = json.loads(line)
                except ValueError:  # the line that a kill cut off
                    continue
                self.values[key] = value

    def find(
        self, keys: Sequence[object], measure: Callable[[list[int]], Sequence[Any]], step: int = 4 * BATCH
    ) -> list[Any]:
        """Return the value of each key; ``measure`` is given the places of those that are missing, some at a time."""
        names = [hashlib.sha256(repr(key).encode()).hexdigest()[:24] for key in keys]
        places = {name: place for place, name in enumerate(names)}
        missing = [place for name, place in places.items() if name not in self.values]
        for start in range(0, len(missing), step):
            some = missing[start : start + step]
            fresh = {names[place]: value for place, value in zip(some, measure(some), strict=True)}
            self.values |= fresh
            if self.path is not None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("a") as file:
                    file.writelines(json.dumps([key, value]) + "\n" for key, value in fresh.items())
        return [self.values[name] for name in names]


class Bench:
    """Scores methods on cases; all that was scored before is looked up."""

    def __init__(
        self, prompter: Prompter, bare: Fitted, kept: Kept, tag: str, adapter: str, progress: Progress
    ) -> None:
        """Begin.

        Args:
            prompter: Lays prompts out.
            bare: D(x).
            kept: What was measured before.
            tag: What every value depends on: decoder, bank, code and machine, as one digest.
            adapter: What names the adapter of edits' memories.
            progress: Told how far it is.
        """
        self.prompter, self.bare, self.kept, self.tag, self.adapter = prompter, bare, kept, tag, adapter
        self.progress = progress

    def keys(self, fitted: Fitted, prompts: Sequence[Prompt], kind: str) -> tuple[list[Any], list[bool]]:
        """Return what each value depends on, and for which prompts it is the bare decoder's.

        A method that was trained is known by all that it learned from, not by its name alone.
        """
        if isinstance(fitted, Asked):
            spoken = fitted.spoken(prompts)
            said = [(self.adapter, *_statements(fitted, ids)) if ids else () for ids in spoken]
        else:
            bare = fitted.name == "bare"
            assert fitted.learned or fitted.name in UNTRAINED, f"{fitted.name} does not tell what it has learned from"
            known = [prompt.knowledge if fitted.knowledge else () for prompt in prompts]
            said = [() if bare else (fitted.name, fitted.learned, each) for each in known]  # type: ignore[misc]
        targets = [() if kind.startswith("text") else prompt.target for prompt in prompts]
        rows = zip(prompts, said, targets, strict=True)
        return [(self.tag, kind, what, p.anchor, p.input, target) for p, what, target in rows], [not w for w in said]

    def nll(self, fitted: Fitted, prompts: Sequence[Prompt]) -> Sums:
        """Return the NLL of each prompt's target; see :func:`diekae_research.evaluation.scoring.nll`."""
        keys, shut = self.keys(fitted, prompts, "nll")

        def measure(places: list[int]) -> list[float]:
            found = np.zeros(len(places))
            for method, wanted in ((self.bare, True), (fitted, False)):
                rows = [n for n, place in enumerate(places) if shut[place] is wanted]
                if rows:
                    found[rows] = nll(method, [prompts[places[n]] for n in rows], BATCH).total
            self.progress(f"scoring {fitted.name}", len(self.kept.values), len(self.kept.values))
            return [float(value) for value in found]

        total = np.array(self.kept.find(keys, measure))
        return Sums(total, np.array([len(prompt.target) for prompt in prompts], dtype=np.float64))

    def texts(self, fitted: Fitted, prompts: Sequence[Prompt], length: int = ANSWER) -> list[str]:
        """Return what is generated greedily behind each prompt."""
        keys, shut = self.keys(fitted, prompts, "text" if length == ANSWER else f"text {length}")

        def measure(places: list[int]) -> list[str]:
            found = [""] * len(places)
            for method, wanted in ((self.bare, True), (fitted, False)):
                rows = [n for n, place in enumerate(places) if shut[place] is wanted]
                for start in range(0, len(rows), BATCH):
                    some = rows[start : start + BATCH]
                    for n, text in zip(some, method.generate([prompts[places[k]] for k in some], length), strict=True):
                        found[n] = text
            return found

        return self.kept.find(keys, measure)

    def drift(self, fitted: Fitted, prompts: Sequence[Prompt]) -> list[float]:
        """Return KL(D(x) ‖ method) summed over each prompt's target, in nats; exactly 0 where no edit speaks."""
        keys, shut = self.keys(fitted, prompts, "kl")

        def measure(places: list[int]) -> list[float]:
            found = np.zeros(len(places))
            rows = [n for n, place in enumerate(places) if not shut[place]]
            if rows:
                found[rows] = harm(self.bare, fitted, [prompts[places[n]] for n in rows], BATCH).total
            return [float(value) for value in found]

        return self.kept.find(keys, measure)

    def method(
        self, fitted: Fitted, cases: Sequence[Case], unrelated: Sequence[Prompt] = (), neighbours: int | None = None
    ) -> dict[str, Any]:
        """Score a method on cases: each case's columns, and their summary in per cent.

        Args:
            fitted: The method, with the edits in force.
            cases: What is scored.
            unrelated: Texts on which it should change nothing.
            neighbours: Neighbourhood prompts of a case at most.
        """
        columns = successes(self.prompter, lambda rows: self.nll(fitted, rows), cases, neighbours)
        columns |= self._generated(fitted, cases)
        near = [(n, text) for n, case in enumerate(cases) for text in case.neighbours[:1]]
        prompts = [prompt_of(self.prompter, cases[n], text, cases[n].true) for n, text in near]
        same = zip(self.texts(fitted, prompts), self.texts(self.bare, prompts), strict=True)
        unchanged = [float(one == other) for one, other in same]
        columns["unchanged"] = np.bincount([n for n, _ in near], unchanged, len(cases)).tolist()
        columns["n_near"] = [float(bool(case.neighbours)) for case in cases]
        found = self.together(columns)
        if unrelated:
            tokens = sum(len(prompt.target) for prompt in unrelated)
            found["drift"] = float(np.sum(self.drift(fitted, unrelated))) / tokens
            found["perplexity"] = float(np.exp(self.nll(fitted, unrelated).total.sum() / tokens))
            found["perplexity_bare"] = float(np.exp(self.nll(self.bare, unrelated).total.sum() / tokens))
        return found

    def together(self, columns: dict[str, list[float]]) -> dict[str, Any]:
        """Summarise each case's columns."""
        found = {"n": len(columns["es"]), **summary(columns)}
        for name, count in GENERATED.items():
            found[name] = share(columns, name, count)
        return {**found, "columns": {name: [round(v, 4) for v in column] for name, column in columns.items()}}

    def _generated(self, fitted: Fitted, cases: Sequence[Case]) -> dict[str, list[float]]:
        """Tell whether what is generated answers with the target: after the edit's prompt, and after a paraphrase."""
        found: dict[str, list[float]] = {}
        for name, place in (("generated", 0), ("generated_ps", 1)):
            rows = [n for n, case in enumerate(cases) if place == 0 or case.paraphrases]
            asked = [(cases[n].prompt, *cases[n].paraphrases)[place] for n in rows]
            pairs = zip(rows, asked, strict=True)
            prompts = [prompt_of(self.prompter, cases[n], text, cases[n].new) for n, text in pairs]
            said = [says(text, cases[n].new) for n, text in zip(rows, self.texts(fitted, prompts), strict=True)]
            for key, column in ((name, 0), (name.replace("generated", "begins"), 1)):
                values = np.zeros(len(cases))
                values[rows] = [one[column] for one in said]
                found[key] = values.tolist()
        return found


def _statements(asked: Asked, ids: Sequence[int]) -> list[str]:
    return [asked.edits.store.record(number).edit.statement for number in ids]


def opened(asked: Asked, prompts: Sequence[Prompt], meant: Sequence[str | None]) -> dict[str, float]:
    """Return how often the gate opens, and how often for the edit that is meant, in per cent.

    Args:
        asked: Edits in force.
        prompts: Inputs.
        meant: The statement of the edit that each input asks for; None for inputs that no edit is meant for.
    """
    spoken = asked.spoken(prompts)
    said = [_statements(asked, ids) for ids in spoken]
    right = [bool(statements) and statements[0] == wanted for statements, wanted in zip(said, meant, strict=True)]
    return {
        "n": len(prompts),
        "opened": 100 * float(np.mean([bool(ids) for ids in spoken])),
        "right": 100 * float(np.mean(right)),
        "alone": 100 * float(np.mean([r and len(ids) == 1 for r, ids in zip(right, spoken, strict=True)])),
    }
