"""Table 1: knowledge augmentation. Perplexity by data set and over all, training time, inference time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from diekae.evaluation.metrics import paper_perplexity, perplexity
from diekae_research.evaluation.bootstrap import Interval
from diekae_research.tables import figures
from diekae_research.tables.augment import SETS, augmentation
from diekae_research.tables.cells import Cell, Result
from diekae_research.tables.lab import Lab
from diekae_research.tables.sheet import NOTHING, Report, Sheet, interval, number

TITLE = "Table 1: knowledge augmentation"
REFERENCES = ("bare", "prompted")
"""Measured whatever was asked for: shares are relative to them."""
METHODS = (*REFERENCES, "prompted_cached", "lora", "sft", "ours", "ours_finetuned")
ALL = "all sets"
_PAPER_SETS = ("cmu_dog", "curiosity", "dream", "quasar_t", "wizard_of_wikipedia", ALL)
PAPER = {
    "bare": (1.20e6, 2.42e6, 6.25e4, 6.00e5, 7.89e5, 6.13e5),
    "prompted": (5.56, 3.10, 6.61, 9.90, 4.39, 5.48),
    "lora": (4.13, 2.07, 1.78, 1.68, 2.85, 2.36),
    "sft": (2.63, 2.02, 1.88, 1.80, 3.00, 2.22),
    "ours": (5.86, 3.55, 7.01, 11.34, 4.90, 6.05),
    "ours_finetuned": (5.11, 2.89, 3.20, 2.18, 3.99, 3.33),
}
"""What the paper prints as perplexity (LLaMA2-7B, six encoders); its D(x) scores ``<unk>`` (design, section 7)."""
PAPER_SECONDS = {
    "bare": 238.56,
    "prompted": 416.15,
    "lora": 423.67,
    "sft": 413.14,
    "ours": 268.53,
    "ours_finetuned": 268.50,
}
"""The paper's inference time in seconds (RTX 3090)."""
PAPER_HOURS = {"lora": (22.55, 52.32), "sft": (36.31, 68.99), "ours": (14.72, 14.72), "ours_finetuned": (13.3, 11.17)}
"""The paper's GPU-hours of training, an epoch and in all."""
_NOTES = (
    "NLL: nats per target token, every token of a set counting alike; over all sets: the mean of the sets, and "
    "perplexity e^NLL. In brackets: 95 % bootstrap intervals over examples.",
    "paper_perplexity: 2^nats of a mean of batch means, which is what the paper prints; `paper` is its figure for "
    "LLaMA2-7B.",
    "recovered: the share of the gap from D(x) to D(K,x) that is closed; grounded: the same for what K says. Not "
    "defined where the gap is under 0.05 nats.",
    "harm: KL(D(x) ‖ method) in nats a token when the knowledge is another example's.",
)


def methods(lab: Lab) -> list[str]:
    """Return the methods of the plan, the references first."""
    chosen = lab.plan.methods or METHODS
    return [*REFERENCES, *(name for name in chosen if name not in REFERENCES)]


def cells(lab: Lab) -> list[Cell]:
    """Return a cell for each method, each trained on the mixture of all sets.

    Raises:
        DataError: No data set is at hand.
    """
    sets = lab.present(SETS)
    return [augmentation(lab, method, sets) for method in methods(lab)]


def report(lab: Lab, results: Sequence[Result]) -> Report:
    """Lay the figures out: one sheet of quality, one of cost."""
    named = dict(zip(methods(lab), results, strict=True))
    tables = {name: joined(found, named["bare"], named["prompted"]) for name, found in named.items()}
    quality: list[list[str]] = []
    for name, by_set in tables.items():
        rows = {**{one: [table] for one, table in by_set.items()}, ALL: list(by_set.values())}
        for where, kept in rows.items():
            quality.append([name, where, *_quality(kept, lab), number(_paper(name, where))])
    columns = ("method", "data", "n", "NLL", "perplexity", "paper_perplexity", "recovered", "grounded", "exact", "F1")
    return Report(
        [
            Sheet(f"{TITLE}, quality", (*columns, "harm", "paper"), quality, _NOTES, keys=2),
            Sheet(f"{TITLE}, cost", COST_COLUMNS, [cost_row(name, found) for name, found in named.items()], COST_NOTES),
        ]
    )


def joined(found: Result, bare: Result, prompted: Result) -> dict[str, dict[str, list[float]]]:
    """Put the columns of D(x) and D(K, x) beside a method's, by data set."""
    return {
        name: {
            **table,
            "bare": bare["sets"][name]["nll"],
            "prompted": prompted["sets"][name]["nll"],
            **({"prompted_other": prompted["sets"][name]["nll_other"]} if "nll_other" in table else {}),
        }
        for name, table in found["sets"].items()
    }


def _quality(tables: Sequence[Mapping[str, Any]], lab: Lab) -> list[str]:
    """Print the figures of one method on one set, or over several."""
    seed = lab.plan.seed
    nll = figures.mean_nll(tables, seed=seed)
    assert nll is not None, "a method is scored on at least one set"
    exact, overlap = figures.mean(tables, "exact", seed), figures.mean(tables, "f1", seed)
    return [
        str(sum(len(table["nll"]) for table in tables)),
        interval(nll),
        interval(Interval(*map(perplexity, nll)), 2),
        number(mean_paper_perplexity(tables, lab.plan.batch_size)),
        interval(figures.recovered(tables, seed), 2),
        interval(figures.grounded(tables, seed), 2),
        NOTHING if exact is None else number(exact.value),
        NOTHING if overlap is None else number(overlap.value),
        interval(figures.mean_nll(tables, "harm", seed)),
    ]


def mean_paper_perplexity(tables: Sequence[Mapping[str, Any]], batch_size: int) -> float:
    """Return the geometric mean over sets of what the paper prints: its "all" is that of its columns."""
    product = 1.0
    for table in tables:
        product *= paper_perplexity(table["nll"], table["tokens"], batch_size) ** (1 / len(tables))
    return product


def _paper(method: str, where: str) -> float | None:
    row = dict(zip(_PAPER_SETS, PAPER.get(method, ()), strict=False))
    return row.get(where)


COST_COLUMNS = (
    "method",
    "parameters",
    "training, s an epoch",
    "training, s",
    "inference, ms",
    "× D(x)",
    "× D(K,x)",
    "prepare K, ms",
    "paper",
)
COST_NOTES = (
    "inference: the median pass over one example, target scored, D(x) and D(K,x) measured in the same process; ours "
    "with K prepared, prompted_cached with K's keys and values at hand.",
    "training: wall-clock seconds, validations and checkpoints included; ours_finetuned counts both of its "
    "stages. paper: GPU-hours an epoch / GPU-hours / inference of its whole test set in seconds.",
)


def cost_row(name: str, found: Result) -> list[str]:
    """Print what one method costs."""
    spent, seconds = found["cost"], found["seconds"]
    prepare = seconds.get("prepare")
    trained = spent["seconds"] > 0
    paper = (*PAPER_HOURS.get(name, (None, None)), PAPER_SECONDS.get(name))
    return [
        name,
        f"{spent['parameters']:,.0f}" if spent["parameters"] else NOTHING,
        number(spent["epoch_seconds"], 1) if trained else NOTHING,
        number(spent["seconds"], 1) if trained else NOTHING,
        number(1000 * seconds["method"], 1),
        number(seconds["method"] / seconds["bare"]),
        number(seconds["method"] / seconds["prompted"]),
        NOTHING if prepare is None else number(1000 * prepare, 1),
        " / ".join(map(number, paper)) if any(paper) else NOTHING,
    ]
