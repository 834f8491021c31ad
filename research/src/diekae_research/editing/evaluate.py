"""The measurement of editing behind ``diekae-research edit evaluate``: methods, gates, and a sample in full format."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from diekae.data.prompt import Prompt
from diekae.edit.attach import make_gate
from diekae.edit.trained_parts import TrainedParts
from diekae.fields import check_choice
from diekae.model import DiekaeModel
from diekae.progress import Progress, silent
from diekae_research.cells import Cell, Cells, Result, decoder_settings, digest_prompts
from diekae_research.data.case import Case
from diekae_research.editing.cases import choose, divide, read_counterfact
from diekae_research.editing.edited import EditedMethod, edited_method, gate_shares
from diekae_research.editing.inputs import Inputs, make_inputs, shared_subjects
from diekae_research.editing.measure import EditBench
from diekae_research.editing.phrasings import Phrasings
from diekae_research.editing.scores import prompt_of
from diekae_research.methods import Fitted
from diekae_research.methods.ours import as_methods
from diekae_research.provenance import digest
from diekae_research.sources import load_source

PARTS = ("methods", "gates", "sample")
GATES = ("mention", "learned")
"""Gates of the library's edits; ``learned`` is measured where it was trained for the decoder."""
SAMPLE = "full_format_sample.json"
"""Cases of CounterFact in the original layout, with all their prompts."""


@dataclass(frozen=True)
class EditingPlan:
    """What is measured."""

    data: Path
    """Folder of ``counterfact`` and ``natural_questions``."""
    out: Path
    """Folder of measurements, which are kept between runs."""
    cases: int = 100
    """Reported cases of CounterFact."""
    few: int = 32
    """The first of them, on which D(K, x) is measured too."""
    neighbours: int = 5
    """Neighbourhood prompts of a case, at most."""
    unrelated: int = 24
    """Texts on which drift is measured."""
    seed: int = 0
    """Decides which cases and texts."""

    def settings(self) -> dict[str, Any]:
        """Return all fields but the folders, which mean nothing on another machine."""
        return {key: value for key, value in asdict(self).items() if key not in ("data", "out")}


class Evaluation:
    """Measures the parts of a plan. Each method's figures are a cell, so an interrupted run continues."""

    def __init__(self, model: DiekaeModel, trained: TrainedParts, plan: EditingPlan, progress: Progress) -> None:
        """Read the data.

        Raises:
            DataError: A data set is missing.
        """
        self.model, self.trained, self.plan = model, trained, plan
        self.everything = read_counterfact(plan.data / "counterfact")
        self.parts = divide(self.everything)
        self.cases = choose(self.parts.test, plan.cases, plan.seed)
        self.prompter = model.need_prompter()
        self.unrelated = self._unrelated()
        self.bare, self.prompted, _ = as_methods(model)
        self.bench = EditBench(self.prompter, self.bare, progress)
        self.identity, self.cells = identity(model, trained), Cells(plan.out / "cells")

    def _unrelated(self) -> list[Prompt]:
        """Return passages of Natural Questions, cut in the middle."""
        folder, plan = self.plan.data / "natural_questions", self.plan
        examples = load_source("natural_questions", folder=folder, split="test", limit=plan.unrelated, seed=plan.seed)
        rows = [self.prompter.input(" ".join(example.knowledge), "plain")[:80] for example in examples]
        return [Prompt(self.model.anchor, (), row[:40], row[40:]) for row in rows if len(row) == 80]

    def _edited(self, cases: Sequence[Case]) -> dict[str, EditedMethod]:
        """Return the library's edits of some cases, all in force, with each gate that there is."""
        edits = [case.edit for case in cases]
        return {
            gate: edited_method(
                f"memory, {gate}", self.model, make_gate(self.model, gate, self.trained), self.trained, edits
            )
            for gate in GATES
            if gate == "mention" or self.trained.encoder is not None
        }

    def _measured(self, fitted: Fitted, cases: Sequence[Case], neighbours: int | None = None) -> Result:
        """Return what :meth:`EditBench.method` measures, from its cell if it was measured before."""
        settings: dict[str, Any] = {
            "identity": self.identity,
            "method": fitted.name,
            "cases": digest([asdict(case) for case in cases]),
            "unrelated": digest_prompts(self.unrelated),
            "neighbours": neighbours,
        }
        if isinstance(fitted, EditedMethod):
            statements = [record.edit.statement for record in fitted.edits.list()]
            settings |= {"edits": digest(statements), "gate": fitted.edits.gate.fingerprint}
        cell = Cell("edits", settings, lambda: self.bench.method(fitted, cases, self.unrelated, neighbours))
        return self.cells.get(cell)

    def methods(self) -> dict[str, Any]:
        """Measure the methods with all edits at once: ``few`` on the first cases, ``many`` on all."""
        few, edited = self.cases[: self.plan.few], list(self._edited(self.cases).values())
        measured: dict[str, tuple[Sequence[Case], list[Fitted]]] = {
            "few": (few, [self.bare, self.prompted, *edited]),
            "many": (self.cases, [self.bare, *edited]),
        }
        return {
            name: {method.name: self._measured(method, cases, self.plan.neighbours) for method in methods}
            for name, (cases, methods) in measured.items()
        }

    def gates(self) -> dict[str, Any]:
        """Measure for which inputs each gate opens, with the edits of every test case in force."""
        phrasings, figures = Phrasings.find(self.parts.train), {}
        inputs = make_inputs(self.prompter, self.cases, phrasings, self.unrelated, self.plan.seed)
        shared = shared_subjects(self.everything, self.plan.cases)
        prompts = [prompt_of(self.prompter, case, case.prompt, case.new) for case in shared]
        inputs["shared subject"] = Inputs(prompts, [case.edit.statement for case in shared])
        for gate, edited in self._edited([*self.parts.test, *shared]).items():
            figures[gate] = {name: gate_shares(edited, *kind) for name, kind in inputs.items() if kind.prompts}
        return figures

    def sample(self) -> dict[str, Any]:
        """Measure cases of the original layout, which has two paraphrases and ten neighbours a case."""
        cases = read_counterfact(self.plan.data / "counterfact", SAMPLE)
        methods = [self.bare, *self._edited(cases).values()]
        return {method.name: self._measured(method, cases) for method in methods}


def identity(model: DiekaeModel, trained: TrainedParts) -> dict[str, Any]:
    """Return what every measurement depends on besides code and machine: decoder, bank, thresholds and adapter."""
    adapter = hashlib.sha256(b"" if trained.adapter is None else repr(trained.adapter.options).encode())
    for tensor in trained.adapter.state_dict().values() if trained.adapter is not None else ():
        adapter.update(tensor.cpu().numpy().tobytes())
    return {
        **decoder_settings(model.decoder),
        "bank": [model.bank.fingerprint(), str(model.bank.dtype)],
        "config": model.config.to_dict(),
        "anchor": model.anchor,
        "thresholds": asdict(trained.gate),
        "adapter": adapter.hexdigest(),
    }


def evaluate_edits(
    model: DiekaeModel,
    trained: TrainedParts,
    plan: EditingPlan,
    parts: Sequence[str] = PARTS,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Measure the parts of a plan; an interrupted run continues.

    Args:
        model: Decoder and bank.
        trained: Gate and adapter.
        plan: What is measured.
        parts: Some of :data:`PARTS`.
        progress: Called as the work goes on.

    Raises:
        ValueError: A part is not known.
        DataError: A data set is missing.
    """
    for part in parts:
        check_choice(f"part {part!r}", part, PARTS)
    evaluation = Evaluation(model, trained, plan, progress)
    figures = {name: getattr(evaluation, name)() for name in PARTS if name in parts}
    return {"plan": plan.settings(), "gate": asdict(trained.gate), **figures}
