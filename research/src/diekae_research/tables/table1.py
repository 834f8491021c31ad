"""Table 1: knowledge augmentation. Perplexity by data set and over all, training time, inference time."""

from __future__ import annotations

from collections.abc import Sequence

from diekae.evaluation.metrics import perplexity
from diekae_research.cells import Cell, Result
from diekae_research.evaluation import intervals
from diekae_research.evaluation.intervals import Columns, Interval
from diekae_research.evaluation.scoring import paper_perplexity
from diekae_research.tables.augment import SETS, augmentation
from diekae_research.tables.lab import Lab
from diekae_research.tables.sheet import NOTHING, Report, Sheet, interval, number

TITLE = "Table 1: knowledge augmentation"
REFERENCES = ("bare", "prompted")
"""Always measured: shares are relative to them."""
METHODS = (*REFERENCES, "prompted_cached", "lora", "sft", "ours", "ours_finetuned")
ALL = "all sets"
"""Label of the rows over all sets."""
PAPER_SETS = ("cmu_dog", "curiosity", "dream", "quasar_t", "wizard_of_wikipedia", ALL)
PAPER = {
    "bare": (1.20e6, 2.42e6, 6.25e4, 6.00e5, 7.89e5, 6.13e5),
    "prompted": (5.56, 3.10, 6.61, 9.90, 4.39, 5.48),
    "lora": (4.13, 2.07, 1.78, 1.68, 2.85, 2.36),
    "sft": (2.63, 2.02, 1.88, 1.80, 3.00, 2.22),
    "ours": (5.86, 3.55, 7.01, 11.34, 4.90, 6.05),
    "ours_finetuned": (5.11, 2.89, 3.20, 2.18, 3.99, 3.33),
}
"""The paper's perplexities by set (LLaMA2-7B, six encoders); its D(x) scores ``<unk>`` (design, section 7)."""
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
QUALITY_COLUMNS = ("NLL", "perplexity", "paper_perplexity", "recovered", "grounded")
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
    "has K prepared, and prompted_cached has K's keys and values.",
    "training: wall-clock seconds, validations and checkpoints included; ours_finetuned counts both of its "
    "stages. paper: GPU-hours an epoch / GPU-hours / inference of its whole test set in seconds.",
)
_NOTES = (
    "NLL: nats per target token, with the same weight for every token of a set; over all sets: the mean of the sets, "
    "and perplexity e^NLL. In brackets: 95 % bootstrap intervals over examples.",
    "paper_perplexity: 2^nats of a mean of batch means, as the paper computes it; `paper` is its figure for LLaMA2-7B.",
    "recovered: the share of the gap from D(x) to D(K,x) that is closed; grounded: the same for what K says. Not "
    "defined where the gap is under 0.05 nats.",
    "harm: KL(D(x) ‖ method) in nats a token when the knowledge is another example's.",
)


def methods(lab: Lab) -> list[str]:
    """Return the plan's methods or the table's, the references first."""
    chosen = lab.plan.methods or METHODS
    return [*REFERENCES, *(name for name in chosen if name not in REFERENCES)]


def cells(lab: Lab) -> list[Cell]:
    """Return a cell for each method, each trained on the mixture of all sets."""
    sets = lab.present(SETS)
    return [augmentation(lab, method, sets) for method in methods(lab)]


def report(lab: Lab, results: Sequence[Result]) -> Report:
    """Lay the figures out: one sheet of quality, one of cost."""
    by_method = dict(zip(methods(lab), results, strict=True))
    quality: list[list[str]] = []
    for method, result in by_method.items():
        by_set = join_references(result, by_method["bare"], by_method["prompted"])
        groups = {**{name: [columns] for name, columns in by_set.items()}, ALL: list(by_set.values())}
        paper = dict(zip(PAPER_SETS, PAPER.get(method, ()), strict=False))
        for name, tables in groups.items():
            quality.append([method, name, *_quality(tables, lab), number(paper.get(name))])
    columns = ("method", "data", "n", *QUALITY_COLUMNS, "exact", "F1", "harm", "paper")
    cost = [_cost_row(method, result) for method, result in by_method.items()]
    return Report(
        [
            Sheet(f"{TITLE}, quality", columns, quality, _NOTES),
            Sheet(f"{TITLE}, cost", COST_COLUMNS, cost, COST_NOTES),
        ]
    )


def join_references(result: Result, bare: Result, prompted: Result) -> dict[str, Columns]:
    """Add the columns of D(x) and D(K, x) to those of a method, by data set."""
    by_set: dict[str, Columns] = {}
    for name, columns in result["sets"].items():
        references = {"bare": bare["sets"][name]["nll"], "prompted": prompted["sets"][name]["nll"]}
        if "nll_other" in columns:
            references["prompted_other"] = prompted["sets"][name]["nll_other"]
        by_set[name] = {**columns, **references}
    return by_set


def quality_cells(tables: Sequence[Columns], lab: Lab) -> list[str]:
    """Return the cells of :data:`QUALITY_COLUMNS` for one method on one or more sets."""
    seed = lab.plan.seed
    nll = intervals.mean_nll(tables, seed=seed)
    assert nll is not None, "a method is scored on at least one set"
    return [
        interval(nll),
        interval(Interval(*map(perplexity, nll)), 2),
        number(_paper_perplexity(tables, lab.plan.batch_size)),
        interval(intervals.recovered(tables, seed), 2),
        interval(intervals.grounded(tables, seed), 2),
    ]


def _quality(tables: Sequence[Columns], lab: Lab) -> list[str]:
    seed = lab.plan.seed
    count = sum(len(columns["nll"]) for columns in tables)
    answers = [intervals.mean(tables, measure, seed) for measure in ("exact", "f1")]
    shares = [NOTHING if share is None else number(share.value) for share in answers]
    harm = interval(intervals.mean_nll(tables, "harm", seed))
    return [str(count), *quality_cells(tables, lab), *shares, harm]


def _paper_perplexity(tables: Sequence[Columns], batch_size: int) -> float:
    """Return the paper's perplexity; over several sets their geometric mean, as the paper's "all" is."""
    product = 1.0
    for columns in tables:
        product *= paper_perplexity(columns["nll"], columns["tokens"], batch_size) ** (1 / len(tables))
    return product


def _cost_row(method: str, result: Result) -> list[str]:
    cost, seconds = result["cost"], result["seconds"]
    is_trained = cost["seconds"] > 0
    paper = (*PAPER_HOURS.get(method, (None, None)), PAPER_SECONDS.get(method))
    return [
        method,
        f"{cost['parameters']:,.0f}" if cost["parameters"] else NOTHING,
        number(cost["epoch_seconds"], 1) if is_trained else NOTHING,
        number(cost["seconds"], 1) if is_trained else NOTHING,
        number(1000 * seconds["method"], 1),
        number(seconds["method"] / seconds["bare"]),
        number(seconds["method"] / seconds["prompted"]),
        number(1000 * seconds["prepare"], 1) if "prepare" in seconds else NOTHING,
        " / ".join(map(number, paper)) if any(paper) else NOTHING,
    ]
