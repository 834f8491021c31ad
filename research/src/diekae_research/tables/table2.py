"""Table 2: in-context reasoning. Accuracy on ProofWriter and FOLIO, by a trained head and by the labels' likelihood.

Every method that is trained, is trained on the mixture of the sets with the class as target text; each set then gets a
head on the method's final states. Checkpoints and heads are chosen on the validation part and the test part is
reported; where there is none (FOLIO), half of the validation part chooses and the other half is reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from diekae.data.prompt import Prompt
from diekae_research.evaluation.head import collect_states, train_head
from diekae_research.evaluation.scoring import label_targets, score_labels
from diekae_research.methods import Fitted, fit
from diekae_research.sources import source_card
from diekae_research.tables import figures
from diekae_research.tables.augment import cost, mixture, size, training_work
from diekae_research.tables.cells import Cell, Result, digest_prompts
from diekae_research.tables.lab import UNTRAINED, Lab
from diekae_research.tables.sheet import NOTHING, Report, Sheet, interval, number

TITLE = "Table 2: in-context reasoning"
SETS = ("proofwriter", "folio")
METHODS = ("bare", "prompted", "lora", "sft", "ours", "ours_finetuned")
PAPER = {
    "bare": (45.2, 35.3),
    "prompted": (45.4, 38.73),
    "lora": (98.1, 71.57),
    "sft": (98.9, 69.12),
    "ours_finetuned": (56.5, 41.14),
}
"""The paper's accuracies in per cent; its head stays at its random start for its own method (design, section 7)."""
_NOTES = (
    "head: a linear classifier of the final hidden state of the last token of x, trained alike for every trained "
    "method and chosen on examples that are not reported. likelihood: the likeliest label as a text; by length: per "
    "token. In brackets: 95 % bootstrap intervals over examples.",
    "majority: the share of the most frequent class among the reported examples.",
)
_MEASURES = ("head", "likelihood", "by_length")


def methods(lab: Lab) -> tuple[str, ...]:
    """Return the plan's methods, or the table's."""
    return lab.plan.methods or METHODS


def cells(lab: Lab) -> list[Cell]:
    """Return a cell for each method.

    Raises:
        DataError: No data set is at hand, or one has no classes.
    """
    sets = lab.present(SETS)
    for name in sets:
        if not source_card(name).labels:
            raise ValueError(f"data set {name!r} has no classes; table2 needs sets that have, such as {SETS}.")
    return [_cell(lab, method, sets) for method in methods(lab)]


def _cell(lab: Lab, method: str, sets: Sequence[str]) -> Cell:
    task = lab.task(*mixture(lab, sets))
    every = {name: lab.parts(name) for name in sets}
    settings = {
        **lab.settings(method, task),
        "parts": {name: [digest_prompts(part) for part in parts] for name, parts in every.items()},
        "labels": {name: list(source_card(name).labels) for name in sets},
    }
    scored = sum(4 * size(parts.test) + size(parts.validation) + size(parts.train) for parts in every.values())

    def measure() -> Result:
        fitted = fit(method, task)
        return {"sets": {name: _classify(lab, fitted, name) for name in sets}, "cost": cost(fitted)}

    return Cell(f"reasoning-{method}", settings, scored + training_work(method, task), measure)


def _classify(lab: Lab, fitted: Fitted, name: str) -> dict[str, Any]:
    """Return, for each reported example, its class and whether each measure is right."""
    parts, batch = lab.parts(name), lab.plan.batch_size
    candidates = label_targets(lab.prompter, source_card(name).labels)
    classes = [torch.tensor([candidates.index(prompt.target) for prompt in part]) for part in parts]
    scores = score_labels(fitted, parts.test, candidates, batch, lab.progress)
    found: dict[str, Any] = {"class": classes[2].tolist()}
    chosen = {"likelihood": scores.choices, "by_length": scores.choices_by_length}
    if fitted.name not in UNTRAINED:
        chosen["head"] = _head(lab, fitted, list(parts), classes, len(candidates)).numpy()
    for measure, choices in chosen.items():
        found[measure] = [float(choice == label) for choice, label in zip(choices, found["class"], strict=True)]
    return found


def _head(lab: Lab, fitted: Fitted, parts: list[list[Prompt]], classes: list[Tensor], count: int) -> Tensor:
    """Train a head on the first part, choose it on the second, and return its choices on the third."""
    states = [collect_states(fitted, part, lab.plan.batch_size, lab.progress) for part in parts]
    head = train_head((states[0], classes[0]), (states[1], classes[1]), count)
    return head(states[2]).argmax(-1)


def report(lab: Lab, results: Sequence[Result]) -> Report:
    """Lay the accuracies out, in per cent."""
    rows = []
    for method, found in zip(methods(lab), results, strict=True):
        for name, table in found["sets"].items():
            classes = table["class"]
            majority = max(classes.count(one) for one in set(classes)) / len(classes)
            accuracies = [figures.mean([table], measure, lab.plan.seed) for measure in _MEASURES]
            paper = dict(zip(SETS, PAPER.get(method, ()), strict=False)).get(name)
            rows.append(
                [
                    method,
                    name,
                    str(len(classes)),
                    *(interval(accuracy, 1, 100) for accuracy in accuracies),
                    number(100 * majority, 1),
                    number(found["cost"]["seconds"], 1) if found["cost"]["seconds"] else NOTHING,
                    number(paper, 1),
                ]
            )
    columns = ("method", "data", "n", "head, %", "likelihood, %", "by length, %", "majority, %", "training, s", "paper")
    return Report([Sheet(TITLE, columns, rows, _NOTES, keys=2)])
