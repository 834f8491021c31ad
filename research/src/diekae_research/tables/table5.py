"""Table 5: which layers receive. The paper's six, all, and those that converged.

A layer has *converged* if, at the end of a run over all layers on differences alone, its encoder leaves less than 90 %
of its differences' variance unexplained on the validation examples: one that has learned nothing leaves 100 %. (The
paper calls those diverged whose loss ended above 10⁵, which depends on the decoder's scale.)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from diekae.config import resolve_layers
from diekae.evaluation.metrics import perplexity
from diekae.inject.hookpoints import find_blocks
from diekae_research.evaluation.bootstrap import Interval
from diekae_research.tables import figures
from diekae_research.tables.augment import SETS, augmentation, mixture
from diekae_research.tables.cells import Cell, Result, digest_prompts
from diekae_research.tables.lab import Lab
from diekae_research.tables.pretraining import last_shares, pretraining
from diekae_research.tables.sheet import Report, Sheet, interval, number
from diekae_research.tables.table1 import joined, mean_paper_perplexity

TITLE = "Table 5: number of encoders"
METHOD = "ours_finetuned"
CONVERGED = 0.9
"""Unexplained share under which a layer has converged."""
PAPER = {"memit": (3.33, 13.3, 268.50), "conv": (3.64, 50.12, 629.44), "all": (3.74, 66.2, 677.39)}
"""Perplexity (2^nats), GPU-hours an epoch, and inference in seconds."""
_NOTES = (
    "memit: layers 3–8; conv: the layers whose encoder, in a run over all layers on differences alone, leaves less "
    f"than {CONVERGED:.0%} of the variance unexplained on validation; all: every layer.",
    "Every bank is trained on differences and then fine-tuned, as in table 1. Means over the data sets; in brackets: "
    "95 % bootstrap intervals. paper: 2^nats / GPU-hours an epoch / inference, s.",
)


def cells(lab: Lab) -> list[Cell]:
    """Return the cells of D(x) and D(K, x), the run that finds what converges, and one for each choice of layers.

    Raises:
        DataError: No data set is at hand.
    """
    sets = lab.present(SETS)
    references = [augmentation(lab, name, sets) for name in ("bare", "prompted")]
    every = dataclasses.replace(lab.config, layers="all")
    search = pretraining(lab, *mixture(lab, sets), every)
    chosen = [augmentation(lab, METHOD, sets, dataclasses.replace(every, layers=name)) for name in ("memit", "all")]
    return [*references, search, chosen[0], _converged(lab, sets, search, chosen[1]), chosen[1]]


def _converged(lab: Lab, sets: Sequence[str], search: Cell, every: Cell) -> Cell:
    """Return the cell of the layers that converged, which are known only once the search is measured."""

    def measure() -> Result:
        layers = converged(last_shares(lab.cells.get(search)["log"]))
        depth = len(find_blocks(lab.decoder))
        if not layers:
            return {"layers": []}
        if layers == resolve_layers("all", depth):
            return lab.cells.get(every)
        config = dataclasses.replace(lab.config, layers=layers)
        return {**augmentation(lab, METHOD, sets, config).measure(), "layers": list(layers)}

    settings = {
        "search": dict(search.settings),
        "rule": CONVERGED,
        "test": {name: digest_prompts(lab.parts(name).test) for name in sets},
    }
    return Cell(f"augment-{METHOD}-converged", settings, every.work, measure)


def converged(shares: Mapping[int, float]) -> tuple[int, ...]:
    """Return the layers whose unexplained share, by layer, is under :data:`CONVERGED`."""
    return tuple(sorted(layer for layer, share in shares.items() if share < CONVERGED))


def report(lab: Lab, results: Sequence[Result]) -> Report:
    """Lay out quality and cost of each choice of layers."""
    bare, prompted, _, memit, conv, every = results
    depth = len(find_blocks(lab.decoder))
    layers = {
        "memit": resolve_layers("memit", depth),
        "conv": conv.get("layers", resolve_layers("all", depth)),
        "all": resolve_layers("all", depth),
    }
    rows = []
    for name, found in (("memit", memit), ("conv", conv), ("all", every)):
        paper = " / ".join(number(value) for value in PAPER[name])
        if "sets" not in found:
            rows.append([name, "0", *["–"] * 8, paper])
            continue
        tables = list(joined(found, bare, prompted).values())
        nll = figures.mean_nll(tables, seed=lab.plan.seed)
        assert nll is not None, "a bank is scored on at least one set"
        rows.append(
            [
                name,
                str(len(layers[name])),
                interval(nll),
                interval(Interval(*map(perplexity, nll)), 2),
                number(mean_paper_perplexity(tables, lab.plan.batch_size)),
                interval(figures.recovered(tables, lab.plan.seed), 2),
                interval(figures.grounded(tables, lab.plan.seed), 2),
                number(found["cost"]["epoch_seconds"], 1),
                number(1000 * found["seconds"]["method"], 1),
                number(found["seconds"]["method"] / found["seconds"]["bare"]),
                paper,
            ]
        )
    shares = ("recovered", "grounded")  # an encoder that has only learned what answers look like is grounded in nothing
    heads = ("layers", "encoders", "NLL", "perplexity", "paper_perplexity", *shares, "training, s an epoch")
    note = f"conv: {', '.join(map(str, layers['conv'])) or 'no layer'}."
    columns = (*heads, "inference, ms", "× D(x)", "paper")
    return Report([Sheet(TITLE, columns, rows, (*_NOTES, note))])
