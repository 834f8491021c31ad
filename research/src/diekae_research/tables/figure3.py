"""Figure 3: the validation loss of fine-tuning, with the difference stage before it and without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from diekae_research.cells import Cell, Result
from diekae_research.tables.augment import SETS, augmentation
from diekae_research.tables.lab import Lab
from diekae_research.tables.sheet import Curve, Panel, Report, Sheet, number

TITLE = "Figure 3: effect of the difference stage"
METHODS = {"ours_finetuned": "with the difference stage", "ours_finetuned_from_scratch": "without"}
PAPER = {
    "ours_finetuned": "best after 0.84 epochs, perplexity 3.33",
    "ours_finetuned_from_scratch": "best after 2.89 epochs, perplexity 3.45",
}
_NOTES = (
    "Cross-entropy of the targets on the validation examples, nats a token; the best checkpoint is used.",
    "Both are trained on the same examples in the same order; the first has seen them once more, as differences. Its "
    "peak learning rate is a tenth of the other's, because it starts from a trained bank.",
)


def cells(lab: Lab) -> list[Cell]:
    """Return the two runs; table 1 may have measured the first."""
    sets = lab.present(SETS)
    return [augmentation(lab, method, sets) for method in METHODS]


def losses(log: Sequence[Mapping[str, float]]) -> list[tuple[float, float]]:
    """Return (step, validation loss)."""
    return [(line["step"], line["eval_loss"]) for line in log if "eval_loss" in line]


def report(lab: Lab, results: Sequence[Result]) -> Report:  # noqa: ARG001
    """Draw both losses, and list the best of each."""
    curves, rows = [], []
    for (method, label), result in zip(METHODS.items(), results, strict=True):
        points = losses(result["log"])
        epochs = {line["step"]: line.get("epoch") for line in result["log"]}
        step, loss = min(points, key=lambda point: point[1])
        curves.append(Curve(label, points))
        best = [number(points[0][1], 3), number(loss, 3), f"{step:.0f}", number(epochs[step])]
        rows.append([label, *best, number(points[-1][1], 3), PAPER[method]])
    columns = ("run", "first loss", "best loss", "at step", "at epoch", "last loss", "paper")
    panel = Panel("Fine-tuning, with and without the difference stage", "step", "validation loss, nats a token", curves)
    return Report([Sheet(TITLE, columns, rows, _NOTES)], [panel])
