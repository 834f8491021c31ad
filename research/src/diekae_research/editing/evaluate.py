"""The measurement of editing behind ``diekae-research edit evaluate``: methods side by side, gates, growth, and chains."""

from __future__ import annotations

import functools
import hashlib
import json
import random
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from diekae.data.prompt import Prompt
from diekae.edit.adapter import AdapterOptions, EditAdapter
from diekae.edit.edit import Edit
from diekae.edit.editing import make_gate
from diekae.edit.gate import MentionGate
from diekae.edit.trained import Trained
from diekae.files import write_atomically
from diekae.fingerprint import fingerprint
from diekae.model import DiekaeModel
from diekae.progress import Progress, silent
from diekae_research.editing import compare
from diekae_research.editing.asked import Asked
from diekae_research.editing.cases import Case, choose, divide, divide_by_subject, read_counterfact, read_zsre
from diekae_research.editing.chains import find_chains, score_chains
from diekae_research.editing.growth import asked, time_edits, time_queries, with_edits
from diekae_research.editing.inputs import make_inputs, shared_subjects
from diekae_research.editing.measure import Bench, Kept, opened
from diekae_research.editing.phrasings import Phrasings
from diekae_research.editing.scores import prompt_of
from diekae_research.methods import Fitted
from diekae_research.provenance import digest, key_of
from diekae_research.sources import load_source

PARTS = ("forms", "methods", "gates", "growth", "one", "zsre", "sample", "chains")
SAMPLE = "full_format_sample.json"


@dataclass(frozen=True)
class Plan:
    """What is measured."""

    data: Path
    """Folder with ``counterfact``, ``zsre`` and ``natural_questions``."""
    out: Path
    """Folder of what is kept between runs."""
    cases: int = 100
    """Reported cases of CounterFact for the mechanism ``memory``."""
    few: int = 32
    """The first of them, for methods that are trained on the edits."""
    sizes: tuple[int, ...] = (1, 10, 100, 1000, 10000, 21919)
    """Numbers of edits at once."""
    methods: tuple[str, ...] = ("bare", "prompted", "memory", "weights", "weights_without_locality", "lora", "sft")
    """What stands side by side."""
    gates: tuple[str, ...] = ("mention", "learned")
    """Gates of the mechanism ``memory``."""
    neighbours: int = 5
    """Neighbourhood prompts of a case at most."""
    unrelated: int = 24
    """Texts on which drift is measured."""
    timed: int = 48
    """Edits and questions that are timed."""
    seed: int = 0
    """Decides which cases, the order of the others, and what is trained."""

    def settings(self) -> dict[str, Any]:
        """Return all but the folders, which say nothing on another machine."""
        return {key: value for key, value in asdict(self).items() if key not in ("data", "out")}

    def compared(self) -> dict[str, Any]:
        """Return how the methods are trained that are trained on the edits."""
        names = [name for name in self.methods if name not in (*compare.UNTRAINED, "memory")]
        return {name: compare.settings(name, seed=self.seed) for name in names}


class Evaluation:
    """Carries a plan out; each part is written as soon as it is measured."""

    def __init__(self, model: DiekaeModel, trained: Trained, plan: Plan, progress: Progress) -> None:
        """Read the data.

        Raises:
            DataError: A data set is not at hand.
        """
        self.model, self.trained, self.plan, self.progress = model, trained, plan, progress
        self.everything = read_counterfact(plan.data / "counterfact")
        self.parts = divide(self.everything)
        self.cases = choose(self.parts.test, plan.cases, plan.seed)
        self.prompter = model.need_prompter()
        self.unrelated = self._unrelated()
        self.bare = bare = self._compared("bare", self.cases[:1])
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
        self.bench = Bench(self.prompter, bare, Kept(plan.out / "kept.jsonl"), self.tag, self.adapter, progress)

    @functools.cached_property
    def adapter(self) -> str:
        """Return a digest of the adapter."""
        if (adapter := self.trained.adapter) is None:
            return ""
        found = hashlib.sha256(repr(adapter.options).encode())
        for tensor in adapter.state_dict().values():
            found.update(tensor.cpu().numpy().tobytes())
        return found.hexdigest()[:12]

    def _unrelated(self) -> list[Prompt]:
        """Return passages of Natural Questions, cut in the middle."""
        folder, plan = self.plan.data / "natural_questions", self.plan
        examples = load_source("natural_questions", folder=folder, split="test", limit=plan.unrelated, seed=plan.seed)
        rows = [self.prompter.input(" ".join(example.knowledge), "plain")[:80] for example in examples]
        return [Prompt(self.model.anchor, (), row[:40], row[40:]) for row in rows if len(row) == 80]

    def part(self, name: str) -> dict[str, Any]:
        """Measure one part, or read what an earlier run has measured of it with this very plan."""
        path = self.plan.out / "parts" / f"{name}-{self.key(name)}.json"
        if not path.is_file():
            write_atomically(path, json.dumps(getattr(self, name)()))
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    def key(self, name: str) -> str:
        """Return a digest of all that a part's result depends on, the content of the data among it."""
        gate = None if self.trained.encoder is None else make_gate(self.model, "learned", self.trained).fingerprint
        return key_of(
            {
                "part": name,
                "plan": self.plan.settings(),
                "model": self.tag,
                "adapter": self.adapter,
                "gate": [asdict(self.trained.gate), gate],
                "compared": self.plan.compared(),
                "data": self._content(name),
            }
        )

    def _content(self, name: str) -> str:
        """Return a digest of the cases and texts that a part may look at."""
        own = {"zsre": self._questions, "sample": self._originals}.get(name, list[Case])
        return digest([[asdict(each) for each in part] for part in (self.everything, self.unrelated, own())])

    def _questions(self) -> list[Case]:
        return divide_by_subject(read_zsre(self.plan.data / "zsre")).test

    def _originals(self) -> list[Case]:
        return read_counterfact(self.plan.data / "counterfact", SAMPLE)

    def methods(self) -> dict[str, Any]:
        """Measure all methods on edits that are made together; ``few`` on the first cases, ``many`` on all."""
        found: dict[str, Any] = {"few": {}, "many": {}}
        few = self.cases[: self.plan.few]
        for name in self.plan.methods:
            if name == "memory":
                for gate in self.plan.gates:
                    edits = self._edited(gate, self.cases)
                    found["few"][f"memory, {gate}"] = self._score(edits, few)
                    found["many"][f"memory, {gate}"] = self._score(edits, self.cases)
            else:
                method = self._compared(name, few)
                found["few"][name] = {**self._score(method, few), "cost": method.cost._asdict()}
                if name == "bare":
                    found["many"][name] = self._score(method, self.cases)
        return found

    def _compared(self, name: str, cases: Sequence[Case]) -> Fitted:
        return compare.fitted(self.model, name, cases, self.plan.out / "work", self.progress, self.plan.seed)

    def _score(self, method: Fitted, cases: Sequence[Case]) -> dict[str, Any]:
        return self.bench.method(method, cases, self.unrelated, self.plan.neighbours)

    def _edited(self, gate: str, cases: Sequence[Case]) -> Any:
        """Return the edits of some cases, all in force at once."""
        chosen = make_gate(self.model, gate, self.trained)
        made = with_edits(self.model, chosen, self.trained, [case.edit for case in cases])
        return asked(self.model, made, f"memory, {gate}")

    def one(self) -> dict[str, Any]:
        """Measure edits that are made one at a time: each case with its own edit alone in force."""
        found = {}
        for gate in self.plan.gates:
            scored = [self._score(self._edited(gate, [case]), [case]) for case in self.cases]
            columns = {name: [row["columns"][name][0] for row in scored] for name in scored[0]["columns"]}
            found[f"memory, {gate}"] = self.bench.together(columns)
        return found

    def gates(self) -> dict[str, Any]:
        """Measure what each gate opens for, with the edits of every case of the reported part in force."""
        phrasings, found = Phrasings.find(self.parts.train), {}
        inputs = make_inputs(self.prompter, self.cases, phrasings, self.unrelated, self.plan.seed)
        shared = shared_subjects(self.everything, self.plan.cases)
        for gate in self.plan.gates:
            edits = self._edited(gate, [*self.parts.test, *shared])
            rows = {name: opened(edits, kind.prompts, kind.meant) for name, kind in inputs.items()}
            prompts = [prompt_of(self.prompter, case, case.prompt, case.new) for case in shared]
            rows["shared subject"] = opened(edits, prompts, [case.edit.statement for case in shared])
            found[gate] = rows
        return found

    def growth(self) -> list[dict[str, Any]]:
        """Measure quality on the reported cases, and costs, for each number of edits."""
        first = {case.case for case in self.cases}
        order = [*self.cases, *_shuffled([c for c in self.everything if c.case not in first], self.plan.seed)]
        edits = [case.edit for case in order]
        cost = self._cost(edits[-self.plan.timed :])
        found = []
        for size in [size for size in self.plan.sizes if size <= len(edits)]:
            for name in self.plan.gates:
                method = self._edited(name, order[:size])
                cases = self.cases[: min(size, len(self.cases))]
                row = {"edits": size, "gate": name, **self._score(method, cases), **self._times(method)}
                del row["columns"]
                found.append({**row, "kept": len(method.edits.list()), **cost})
                self.progress("growth", len(found), len(self.plan.sizes) * len(self.plan.gates))
        return found

    def _cost(self, edits: Sequence[Edit]) -> dict[str, float]:
        """Time edits that are made whole, in a store of their own."""
        with tempfile.TemporaryDirectory() as folder:
            gate = make_gate(self.model, None, self.trained)
            return time_edits(self.model, self.trained, gate, edits, Path(folder))

    def _times(self, method: Asked) -> dict[str, float]:
        """Time questions that were not asked before: subjects of other cases in the templates of these."""
        others = [case for case in self.parts.validation if case.paraphrases][: self.plan.timed]
        prompts = [prompt_of(self.prompter, case, case.paraphrases[0], case.new) for case in others]
        method.edits.gate.forget()
        return time_queries(method.edits, self.model, prompts)

    def forms(self) -> dict[str, Any]:
        """Measure what makes an edit's memory of a document's, on validation cases: what chose the adapter's form."""
        cases = choose(self.parts.validation, self.plan.few, self.plan.seed)
        plain = EditAdapter.for_model(self.model, AdapterOptions(rank=0, slots=0))
        found = {}
        for name, adapter in (("document", None), ("four copies", plain), ("adapter", self.trained.adapter)):
            edits = with_edits(self.model, MentionGate(), Trained(adapter=adapter), [c.edit for c in cases])
            bench = Bench(self.prompter, self.bare, self.bench.kept, self.tag, f"{name} {self.adapter}", self.progress)
            found[name] = bench.method(asked(self.model, edits, name), cases, self.unrelated, 1)
        return found

    def zsre(self) -> dict[str, Any]:
        """Measure edits of zsRE, none of whose subjects anything was trained on."""
        cases = self._questions()
        found = {"bare": self._score(self.bare, cases)}
        for name in (name for name in ("prompted",) if name in self.plan.methods):
            found[name] = self._score(self._compared(name, cases), cases)
        return found | {f"memory, {gate}": self._score(self._edited(gate, cases), cases) for gate in self.plan.gates}

    def sample(self) -> dict[str, Any]:
        """Measure the cases of the original layout: two paraphrases and ten neighbourhood prompts each."""
        cases = self._originals()
        found = {"bare": self.bench.method(self.bare, cases, self.unrelated)}
        for gate in self.plan.gates:
            edits = self._edited(gate, cases)
            found[f"memory, {gate}"] = self.bench.method(edits, cases, self.unrelated)
        return found

    def chains(self) -> dict[str, Any]:
        """Measure what edits imply: the capital, or the language, of the country that an edit names."""
        chains = find_chains(self.everything, self.parts.test, self.plan.cases)
        methods: list[Fitted] = [self.bare, self._compared("prompted", [])]
        methods += [self._edited(gate, [chain.case for chain in chains]) for gate in self.plan.gates]
        return {method.name: score_chains(self.bench, method, chains) for method in methods}


def evaluate_edits(
    model: DiekaeModel, trained: Trained, plan: Plan, parts: Sequence[str] = PARTS, progress: Progress = silent
) -> dict[str, Any]:
    """Measure the parts of a plan; a run that was cut off goes on.

    Args:
        model: Decoder and bank.
        trained: Gate and adapter.
        plan: What is measured.
        parts: Names of parts.
        progress: Told how far it is.

    Raises:
        ValueError: A part is not known.
        DataError: A data set is not at hand.
    """
    if unknown := set(parts) - set(PARTS):
        raise ValueError(f"parts {', '.join(sorted(unknown))} are not known; choose among {', '.join(PARTS)}.")
    evaluation = Evaluation(model, trained, plan, progress)
    found = {name: evaluation.part(name) for name in PARTS if name in parts}
    return {"plan": plan.settings(), "compared": plan.compared(), "gate": asdict(trained.gate), **found}


def _shuffled(cases: Sequence[Case], seed: int) -> list[Case]:
    return random.Random(seed).sample(cases, len(cases))
