"""Table 5: which layers receive. The paper's six, all, and those that converged.

All layers are trained on differences alone. A layer has *converged* if its encoder then leaves less than 90 % of the
variance unexplained on the validation examples; an encoder that has learned nothing leaves 100 %. In the paper a layer
has diverged if its loss ended above 10⁵, which depends on the decoder's scale.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from diekae.config import resolve_layers
from diekae.inject.hookpoints import find_blocks
from diekae_research.cells import Cell, Result, digest_prompts
from diekae_research.tables.augment import SETS, augmentation
from diekae_research.tables.lab import Lab
from diekae_research.tables.pretraining import last_shares, pretraining
from diekae_research.tables.sheet import NOTHING, Report, Sheet, number
from diekae_research.tables.table1 import QUALITY_COLUMNS, join_references, quality_cells

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
    """Return the cells of D(x) and D(K, x), of the search for layers that converge, and of each choice of layers."""
    sets = lab.present(SETS)
    bare, prompted = (augmentation(lab, name, sets) for name in ("bare", "prompted"))
    all_layers = dataclasses.replace(lab.config, layers="all")
    search = pretraining(lab, *lab.mixture(sets), all_layers)
    memit, every = (
        augmentation(lab, METHOD, sets, dataclasses.replace(all_layers, layers=name)) for name in ("memit", "all")
    )
    return [bare, prompted, search, memit, _converged_cell(lab, sets, search, every), every]


def _converged_cell(lab: Lab, sets: Sequence[str], search: Cell, every: Cell) -> Cell:
    """Return the cell of the layers that converged. Only the measured search says which they are."""

    def measure() -> Result:
        layers = converged(last_shares(lab.cells.get(search)["log"]))
        if not layers:
            return {"layers": []}
        if layers == _resolve(lab, "all"):
            return lab.cells.get(every)
        config = dataclasses.replace(lab.config, layers=layers)
        return {**augmentation(lab, METHOD, sets, config).measure(), "layers": list(layers)}

    settings = {
        "search": dict(search.settings),
        "rule": CONVERGED,
        "test": {name: digest_prompts(lab.parts(name).test) for name in sets},
    }
    return Cell(f"augment-{METHOD}-converged", settings, measure)


def converged(shares: Mapping[int, float]) -> tuple[int, ...]:
    """Return the layers whose unexplained share is under :data:`CONVERGED`."""
    return tuple(sorted(layer for layer, share in shares.items() if share < CONVERGED))


def _resolve(lab: Lab, layers: str) -> tuple[int, ...]:
    return resolve_layers(layers, len(find_blocks(lab.decoder)))


def report(lab: Lab, results: Sequence[Result]) -> Report:
    """Lay out quality and cost of each choice of layers."""
    bare, prompted, _, memit, conv, every = results
    conv_layers = conv.get("layers", _resolve(lab, "all"))
    choices = {
        "memit": (memit, _resolve(lab, "memit")),
        "conv": (conv, conv_layers),
        "all": (every, _resolve(lab, "all")),
    }
    rows = []
    for name, (result, layers) in choices.items():
        figures = [NOTHING] * (len(QUALITY_COLUMNS) + 3)
        if layers:
            tables = list(join_references(result, bare, prompted).values())
            seconds = result["seconds"]
            figures = [
                *quality_cells(tables, lab),
                number(result["cost"]["epoch_seconds"], 1),
                number(1000 * seconds["method"], 1),
                number(seconds["method"] / seconds["bare"]),
            ]
        rows.append([name, str(len(layers)), *figures, " / ".join(number(value) for value in PAPER[name])])
    columns = ("layers", "encoders", *QUALITY_COLUMNS, "training, s an epoch", "inference, ms", "× D(x)", "paper")
    note = f"conv: {', '.join(map(str, conv_layers)) or 'no layer'}."
    return Report([Sheet(TITLE, columns, rows, (*_NOTES, note))])
