"""Figures as PNG and SVG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from diekae.evaluation.plots import save_figure
from diekae_research.tables.sheet import Panel

LEGEND = 12
"""Curves up to which a legend is readable in one column."""


def draw(panels: Sequence[Panel], place: Path) -> list[Path]:
    """Draw panels side by side into ``place.png`` and ``place.svg``; returns both."""
    figure = Figure(figsize=(6.2 * len(panels), 3.8), layout="constrained")
    shades = matplotlib.colormaps["viridis"]
    alike = len({(panel.y, panel.logarithmic) for panel in panels}) == 1
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=alike)[0]  # what is measured alike is compared by eye
    for axis, panel in zip(axes, panels, strict=True):
        for index, curve in enumerate(panel.curves):
            axis.plot(
                *zip(*curve.points, strict=True),
                color=shades(0.9 * index / max(1, len(panel.curves) - 1)),
                label=curve.label,
                linewidth=1.5,
                marker="o",
                markersize=2.5,
            )
        axis.set_title(panel.title, loc="left", fontsize=10)
        axis.set_xlabel(panel.x, fontsize=9)
        axis.set_ylabel(panel.y, fontsize=9)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        if panel.logarithmic:
            axis.set_yscale("log")
        axis.legend(
            frameon=False,
            fontsize=7,
            ncols=1 if len(panel.curves) <= LEGEND else 2,
            loc="center left",
            bbox_to_anchor=(1.0, 0.5),  # beside the curves, never over them
        )
    paths = [place.with_suffix(f".{kind}") for kind in ("png", "svg")]
    for path in paths:
        save_figure(figure, path)
    return paths
