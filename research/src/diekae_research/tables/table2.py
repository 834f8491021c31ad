"""Table 2: in-context reasoning. Accuracy on ProofWriter and FOLIO, by a trained head and by the labels' likelihood.

A method is trained on the mixture of the sets, with the class as target text. Each set then gets a head on the method's
final states. The validation part chooses checkpoints and heads, and the test part is reported. FOLIO has no test part:
half of its validation part chooses, and the other half is reported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from diekae_research.cells import Cell, Result, digest_prompts
from diekae_research.evaluation import intervals
from diekae_research.evaluation.head import collect_states, train_head
from diekae_research.evaluation.scoring import label_targets, score_labels
from diekae_research.methods import Fitted, fit
from diekae_research.sources import source_card
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
"""The paper's accuracies in per cent. For its own method its head keeps its random start (design, section 7)."""
_NOTES = (
    "head: a linear classifier of the final hidden state of the last token of x, trained alike for every trained "
    "method and chosen on examples that are not reported. likelihood: the likeliest label as a text; by length: per "
    "token. In brackets: 95 % bootstrap intervals over examples.",
    "majority: the share of the most frequent class among the reported examples.",
)
_MEASURES = ("head", "likelihood", "by_length")


def cells(lab: Lab) -> list[Cell]:
    """Return a cell for each method.

    Raises:
        DataError: All data sets are missing.
        ValueError: A data set has no classes.
    """
    sets = lab.present(SETS)
    for name in sets:
        if not source_card(name).labels:
            raise ValueError(f"data set {name!r} has no classes; table2 needs sets that have, such as {SETS}.")
    return [_cell(lab, method, sets) for method in lab.plan.methods or METHODS]


def _cell(lab: Lab, method: str, sets: Sequence[str]) -> Cell:
    task = lab.task(*lab.mixture(sets))
    by_set = {name: lab.parts(name) for name in sets}
    settings = {
        **lab.settings(method, task),
        "parts": {name: [digest_prompts(part) for part in parts] for name, parts in by_set.items()},
        "labels": {name: list(source_card(name).labels) for name in sets},
    }

    def measure() -> Result:
        fitted = fit(method, task)
        return {"sets": {name: _classify(lab, fitted, name) for name in sets}, "cost": fitted.cost.to_dict()}

    return Cell(f"reasoning-{method}", settings, measure)


def _classify(lab: Lab, fitted: Fitted, name: str) -> Result:
    """Return, for each reported example, its class and whether each measure is right."""
    parts = lab.parts(name)
    candidates = label_targets(lab.prompter, source_card(name).labels)
    classes = [[candidates.index(prompt.target) for prompt in part] for part in parts]
    choices = score_labels(fitted, parts.test, candidates, lab.plan.batch_size, lab.progress)
    if fitted.name not in UNTRAINED:
        states = [collect_states(fitted, part, lab.plan.batch_size, lab.progress) for part in parts]
        head = train_head((states[0], classes[0]), (states[1], classes[1]))
        choices["head"] = head.predict(states[2])
    right = {measure: np.equal(chosen, classes[2]).astype(float).tolist() for measure, chosen in choices.items()}
    return {"class": classes[2], **right}


def report(lab: Lab, results: Sequence[Result]) -> Report:
    """Lay the accuracies out, in per cent."""
    rows = []
    for method, result in zip(lab.plan.methods or METHODS, results, strict=True):
        seconds = result["cost"]["seconds"]
        paper = dict(zip(SETS, PAPER.get(method, ()), strict=False))
        for name, right in result["sets"].items():
            classes = right["class"]
            majority = max(Counter(classes).values()) / len(classes)
            accuracies = [intervals.mean([right], measure, lab.plan.seed) for measure in _MEASURES]
            rows.append(
                [
                    method,
                    name,
                    str(len(classes)),
                    *(interval(accuracy, 1, 100) for accuracy in accuracies),
                    number(100 * majority, 1),
                    number(seconds, 1) if seconds else NOTHING,
                    number(paper.get(name), 1),
                ]
            )
    columns = ("method", "data", "n", "head, %", "likelihood, %", "by length, %", "majority, %", "training, s", "paper")
    return Report([Sheet(TITLE, columns, rows, _NOTES)])
