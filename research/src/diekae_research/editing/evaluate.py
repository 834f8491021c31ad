"""The measurement of editing behind ``diekae-research edit evaluate``: methods, gates, growth and chains."""

from __future__ import annotations

import functools
import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from diekae.data.prompt import Prompt
from diekae.edit.adapter import AdapterOptions, EditAdapter
from diekae.edit.attach import make_gate
from diekae.edit.gate import MentionGate
from diekae.edit.trained_parts import TrainedParts
from diekae.files import write_atomically
from diekae.fingerprint import fingerprint
from diekae.model import DiekaeModel
from diekae.progress import Progress, silent
from diekae_research.editing import compare
from diekae_research.editing.cases import Case, choose, divide, divide_by_subject, read_counterfact, read_zsre
from diekae_research.editing.chains import find_chains, score_chains
from diekae_research.editing.edited import EditedMethod, edited_method, gate_shares
from diekae_research.editing.growth import time_edits, time_queries
from diekae_research.editing.inputs import make_inputs, shared_subjects
from diekae_research.editing.measure import EditBench, MeasurementStore
from diekae_research.editing.phrasings import Phrasings
from diekae_research.editing.scores import prompt_of
from diekae_research.methods import Fitted
from diekae_research.provenance import digest, key_of
from diekae_research.sources import load_source

PARTS = ("forms", "methods", "gates", "growth", "one", "zsre", "sample", "chains")
SAMPLE = "full_format_sample.json"
"""Cases of CounterFact in the original layout, with all their prompts."""


@dataclass(frozen=True)
class EditingPlan:
    """What is measured."""

    data: Path
    """Folder of ``counterfact``, ``zsre`` and ``natural_questions``."""
    out: Path
    """Folder of measurements, which are kept between runs."""
    cases: int = 100
    """Reported cases of CounterFact for edits."""
    few: int = 32
    """The first of them, for methods that are trained on the edits."""
    sizes: tuple[int, ...] = (1, 10, 100, 1000, 10000, 21919)
    """Numbers of edits at once."""
    methods: tuple[str, ...] = ("bare", "prompted", "memory", "weights", "weights_without_locality", "lora", "sft")
    """Methods that are compared; ``memory`` are the library's edits."""
    gates: tuple[str, ...] = ("mention", "learned")
    """Gates of the library's edits."""
    neighbours: int = 5
    """Neighbourhood prompts of a case, at most."""
    unrelated: int = 24
    """Texts on which drift is measured."""
    timed: int = 48
    """Edits and questions that are timed."""
    seed: int = 0
    """Decides which cases, the order of the others, and training."""

    def settings(self) -> dict[str, Any]:
        """Return all fields but the folders, which mean nothing on another machine."""
        return {key: value for key, value in asdict(self).items() if key not in ("data", "out")}

    def compared(self) -> dict[str, Any]:
        """Return the settings of the methods that are trained on the edits."""
        names = [name for name in self.methods if name not in (*compare.UNTRAINED, "memory")]
        return {name: compare.settings(name, seed=self.seed) for name in names}


class Evaluation:
    """Measures the parts of a plan; each is written as soon as it is measured."""

    def __init__(self, model: DiekaeModel, trained: TrainedParts, plan: EditingPlan, progress: Progress) -> None:
        """Read the data.

        Raises:
            DataError: A data set is missing.
        """
        self.model, self.trained, self.plan, self.progress = model, trained, plan, progress
        self.everything = read_counterfact(plan.data / "counterfact")
        self.parts = divide(self.everything)
        self.cases = choose(self.parts.test, plan.cases, plan.seed)
        self.prompter = model.need_prompter()
        self.unrelated = self._unrelated()
        self.bare = self._compared("bare", self.cases[:1])
        self.tag = key_of(
            {
                "decoder": fingerprint(model.decoder),
                "dtype": str(model.decoder.dtype),
                "device": model.decoder.device.type,
                "bank": [model.bank.fingerprint(), str(model.bank.dtype)],
                "config": model.config.to_dict(),
                "anchor": model.anchor,
            }
        )
        self.store = MeasurementStore(plan.out / "kept.jsonl")
        self.bench = EditBench(self.prompter, self.bare, self.store, self.tag, self.adapter, progress)

    @functools.cached_property
    def adapter(self) -> str:
        """Return a digest of the adapter."""
        if (adapter := self.trained.adapter) is None:
            return ""
        sha256 = hashlib.sha256(repr(adapter.options).encode())
        for tensor in adapter.state_dict().values():
            sha256.update(tensor.cpu().numpy().tobytes())
        return sha256.hexdigest()[:12]

    def _unrelated(self) -> list[Prompt]:
        """Return passages of Natural Questions, cut in the middle."""
        folder, plan = self.plan.data / "natural_questions", self.plan
        examples = load_source("natural_questions", folder=folder, split="test", limit=plan.unrelated, seed=plan.seed)
        rows = [self.prompter.input(" ".join(example.knowledge), "plain")[:80] for example in examples]
        return [Prompt(self.model.anchor, (), row[:40], row[40:]) for row in rows if len(row) == 80]

    def part(self, name: str) -> dict[str, Any]:
        """Measure a part, or read it if an earlier run has measured it with this plan."""
        path = self.plan.out / "parts" / f"{name}-{self.key(name)}.json"
        if not path.is_file():
            write_atomically(path, json.dumps(getattr(self, name)()))
        figures: dict[str, Any] = json.loads(path.read_text())
        return figures

    def key(self, name: str) -> str:
        """Return a digest of everything that a part's result depends on, the data included."""
        gate = None if self.trained.encoder is None else make_gate(self.model, "learned", self.trained).fingerprint
        extra = {"zsre": self._zsre_cases, "sample": self._sample_cases}.get(name, list[Case])()
        return key_of(
            {
                "part": name,
                "plan": self.plan.settings(),
                "model": self.tag,
                "adapter": self.adapter,
                "gate": [asdict(self.trained.gate), gate],
                "compared": self.plan.compared(),
                "data": digest([[asdict(row) for row in rows] for rows in (self.everything, self.unrelated, extra)]),
            }
        )

    def _zsre_cases(self) -> list[Case]:
        return divide_by_subject(read_zsre(self.plan.data / "zsre")).test

    def _sample_cases(self) -> list[Case]:
        return read_counterfact(self.plan.data / "counterfact", SAMPLE)

    def _compared(self, name: str, cases: Sequence[Case]) -> Fitted:
        """Return a compared method, fitted to the edits of some cases."""
        return compare.fit_to_edits(self.model, name, cases, self.plan.out / "work", self.progress, self.plan.seed)

    def _edited(self, gate: str, cases: Sequence[Case]) -> EditedMethod:
        """Return the library's edits of some cases, all in force."""
        chosen = make_gate(self.model, gate, self.trained)
        return edited_method(f"memory, {gate}", self.model, chosen, self.trained, [case.edit for case in cases])

    def _score(self, method: Fitted, cases: Sequence[Case]) -> dict[str, Any]:
        return self.bench.method(method, cases, self.unrelated, self.plan.neighbours)

    def methods(self) -> dict[str, Any]:
        """Measure all methods with all edits at once: ``few`` on the first cases, ``many`` on all."""
        figures: dict[str, Any] = {"few": {}, "many": {}}
        few = self.cases[: self.plan.few]
        for name in self.plan.methods:
            if name == "memory":
                for gate in self.plan.gates:
                    edited = self._edited(gate, self.cases)
                    figures["few"][edited.name] = self._score(edited, few)
                    figures["many"][edited.name] = self._score(edited, self.cases)
            else:
                method = self._compared(name, few)
                figures["few"][name] = {**self._score(method, few), "cost": method.cost._asdict()}
                if name == "bare":
                    figures["many"][name] = self._score(method, self.cases)
        return figures

    def one(self) -> dict[str, Any]:
        """Measure each case with its own edit alone in force."""
        figures = {}
        for gate in self.plan.gates:
            scored = [self._score(self._edited(gate, [case]), [case]) for case in self.cases]
            columns = {name: [row["columns"][name][0] for row in scored] for name in scored[0]["columns"]}
            figures[f"memory, {gate}"] = self.bench.together(columns)
        return figures

    def gates(self) -> dict[str, Any]:
        """Measure for which inputs each gate opens, with the edits of every test case in force."""
        phrasings, figures = Phrasings.find(self.parts.train), {}
        inputs = make_inputs(self.prompter, self.cases, phrasings, self.unrelated, self.plan.seed)
        shared = shared_subjects(self.everything, self.plan.cases)
        prompts = [prompt_of(self.prompter, case, case.prompt, case.new) for case in shared]
        for gate in self.plan.gates:
            edited = self._edited(gate, [*self.parts.test, *shared])
            rows = {name: gate_shares(edited, kind.prompts, kind.meant) for name, kind in inputs.items()}
            rows["shared subject"] = gate_shares(edited, prompts, [case.edit.statement for case in shared])
            figures[gate] = rows
        return figures

    def growth(self) -> list[dict[str, Any]]:
        """Measure quality on the reported cases, and cost, for each number of edits."""
        reported = {case.case for case in self.cases}
        others = [case for case in self.everything if case.case not in reported]
        order = [*self.cases, *random.Random(self.plan.seed).sample(others, len(others))]
        gate = make_gate(self.model, None, self.trained)
        cost = time_edits(self.model, self.trained, gate, [case.edit for case in order[-self.plan.timed :]])
        figures: list[dict[str, Any]] = []
        for size in [size for size in self.plan.sizes if size <= len(order)]:
            for name in self.plan.gates:
                method = self._edited(name, order[:size])
                row = {"edits": size, "gate": name, **self._score(method, self.cases[:size]), **self._times(method)}
                del row["columns"]
                figures.append({**row, "kept": len(method.edits.list()), **cost})
                self.progress("growth", len(figures), len(self.plan.sizes) * len(self.plan.gates))
        return figures

    def _times(self, method: EditedMethod) -> dict[str, float]:
        """Time questions that the gate has not seen: paraphrases of validation cases."""
        others = [case for case in self.parts.validation if case.paraphrases][: self.plan.timed]
        prompts = [prompt_of(self.prompter, case, case.paraphrases[0], case.new) for case in others]
        method.edits.gate.clear_cache()
        return time_queries(method.edits, self.model, prompts)

    def forms(self) -> dict[str, Any]:
        """Measure forms of an edit's prepared knowledge on validation cases; this chose the adapter's form."""
        cases = choose(self.parts.validation, self.plan.few, self.plan.seed)
        copies = EditAdapter.for_model(self.model, AdapterOptions(rank=0, slots=0))
        edits, figures = [case.edit for case in cases], {}
        for name, adapter in (("document", None), ("four copies", copies), ("adapter", self.trained.adapter)):
            method = edited_method(name, self.model, MentionGate(), TrainedParts(adapter=adapter), edits)
            tag = f"{name} {self.adapter}"
            bench = EditBench(self.prompter, self.bare, self.store, self.tag, tag, self.progress)
            figures[name] = bench.method(method, cases, self.unrelated, 1)
        return figures

    def zsre(self) -> dict[str, Any]:
        """Measure edits of zsRE, on subjects that nothing was trained on."""
        cases = self._zsre_cases()
        methods: list[Fitted] = [self.bare]
        methods += [self._compared("prompted", cases)] if "prompted" in self.plan.methods else []
        methods += [self._edited(gate, cases) for gate in self.plan.gates]
        return {method.name: self._score(method, cases) for method in methods}

    def sample(self) -> dict[str, Any]:
        """Measure cases of the original layout, which has two paraphrases and ten neighbours a case."""
        cases = self._sample_cases()
        methods = [self.bare, *(self._edited(gate, cases) for gate in self.plan.gates)]
        return {method.name: self.bench.method(method, cases, self.unrelated) for method in methods}

    def chains(self) -> dict[str, Any]:
        """Measure what edits imply: the capital, or the language, of the country that an edit names."""
        chains = find_chains(self.everything, self.parts.test, self.plan.cases)
        methods: list[Fitted] = [self.bare, self._compared("prompted", [])]
        methods += [self._edited(gate, [chain.case for chain in chains]) for gate in self.plan.gates]
        return {method.name: score_chains(self.bench, method, chains) for method in methods}


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
    if unknown := set(parts) - set(PARTS):
        raise ValueError(f"parts {', '.join(sorted(unknown))} are not known; choose among {', '.join(PARTS)}.")
    evaluation = Evaluation(model, trained, plan, progress)
    figures = {name: evaluation.part(name) for name in PARTS if name in parts}
    return {"plan": plan.settings(), "compared": plan.compared(), "gate": asdict(trained.gate), **figures}
