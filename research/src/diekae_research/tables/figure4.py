"""Figure 4: the loss of each layer on differences, with the paper's anchor and with a shared one.

In the paper, layers 1, 29, 30 and 31 of LLaMA2-7B cannot be trained, for no reason that it gives. Under its anchor
``own``, x keeps its BOS after K. The "difference" at that token removes the attention sink, which is thousands of times
larger than the rest (design, section 4). Under a shared anchor that token has no difference at all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from diekae.config import Anchor, DiekaeConfig
from diekae.encoders import encoder_class
from diekae_research.cells import Cell, Result
from diekae_research.tables.augment import SETS
from diekae_research.tables.lab import Lab
from diekae_research.tables.pretraining import pretraining, shares
from diekae_research.tables.sheet import Curve, Panel, Report, Sheet, number

TITLE = "Figure 4: loss of each layer on differences"
ANCHORS: tuple[Anchor, ...] = ("own", "shared")
PAPER_DIVERGED = (1, 29, 30, 31)
"""Layers of LLaMA2-7B that the paper cannot train: their loss stays above 10⁵."""
SHOWN = 8
"""Layers that are drawn, evenly spaced; the sheet lists all."""
_NOTES = (
    "loss: mean square error in the decoder's own units on the validation examples, independent differences, as the "
    "paper's; start: of an encoder whose output is zero, which is the size of the differences; share: end / start.",
    "anchor own: x keeps its own first token after K, as in the paper; shared: both runs begin with the same tokens.",
    "paper: layers of LLaMA2-7B that did not improve at all.",
)


def configuration(lab: Lab, anchor: Anchor) -> DiekaeConfig:
    """Return the preset's bank in all layers, trained on the paper's independent, unscaled differences.

    The encoder ``attention`` has no independent differences; the default encoder replaces it.
    """
    config = lab.config
    if encoder_class(config.encoder).reads == "attention":
        config = DiekaeConfig(template=config.template, format=config.format)
    return dataclasses.replace(
        config, layers="all", difference="independent", rollout="teacher", normalize=False, anchor=anchor
    )


def cells(lab: Lab) -> list[Cell]:
    """Return one run for each anchor."""
    train, validation = lab.mixture(lab.present(SETS))
    return [pretraining(lab, train, validation, configuration(lab, anchor)) for anchor in ANCHORS]


def report(lab: Lab, results: Sequence[Result]) -> Report:  # noqa: ARG001
    """Draw some layers' losses under both anchors, and list all."""
    runs = [{layer: _losses(result, layer) for layer in shares(result["log"])} for result in results]
    layers = sorted(runs[0])
    rows = []
    for layer in layers:
        row = [str(layer)]
        for losses in runs:
            start, end = losses[layer][0][1], losses[layer][-1][1]
            row += [number(start, 3), number(end, 3), number(end / start if start else None)]
        rows.append([*row, "does not improve" if layer in PAPER_DIVERGED else ""])
    columns = [f"{anchor}: {what}" for anchor in ANCHORS for what in ("start", "end", "share")]
    drawn = layers[:: max(1, -(-len(layers) // SHOWN))]
    panels = []
    for anchor, losses in zip(ANCHORS, runs, strict=True):
        curves = [Curve(f"layer {layer}", losses[layer]) for layer in drawn]
        panels.append(Panel(f"anchor {anchor}", "step", "loss", curves, logarithmic=True))
    return Report([Sheet(TITLE, ("layer", *columns, "paper"), rows, _NOTES)], panels)


def _losses(result: Result, layer: int) -> list[tuple[float, float]]:
    """Return (step, loss), from step 0 on, where the encoder's output is zero."""
    square, variance = result["squares"][str(layer)], result["variances"][str(layer)]
    return [(0.0, square), *((step, share * variance) for step, share in shares(result["log"])[layer])]
