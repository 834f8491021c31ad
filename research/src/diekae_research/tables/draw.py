"""Figures as PNG and SVG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from diekae.evaluation.plots import save_figure
from diekae_research.tables.sheet import Panel

LEGEND = 12
"""Most curves whose legend is readable in one column."""


def draw(panels: Sequence[Panel], path: Path) -> None:
    """Draw panels side by side into ``path.png`` and ``path.svg``."""
    figure = Figure(figsize=(6.2 * len(panels), 3.8), layout="constrained")
    same_scale = len({(panel.y, panel.logarithmic) for panel in panels}) == 1
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=same_scale)[0]
    for axis, panel in zip(axes, panels, strict=True):
        _draw_panel(axis, panel)
    for suffix in (".png", ".svg"):
        save_figure(figure, path.with_suffix(suffix))


def _draw_panel(axis: Any, panel: Panel) -> None:
    shades = matplotlib.colormaps["viridis"]
    for index, curve in enumerate(panel.curves):
        x, y = zip(*curve.points, strict=True)
        shade = shades(0.9 * index / max(1, len(panel.curves) - 1))
        axis.plot(x, y, color=shade, label=curve.label, linewidth=1.5, marker="o", markersize=2.5)
    axis.set_title(panel.title, loc="left", fontsize=10)
    axis.set_xlabel(panel.x, fontsize=9)
    axis.set_ylabel(panel.y, fontsize=9)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    if panel.logarithmic:
        axis.set_yscale("log")
    # Beside the curves, never over them.
    columns = 1 if len(panel.curves) <= LEGEND else 2
    axis.legend(frameon=False, fontsize=7, ncols=columns, loc="center left", bbox_to_anchor=(1.0, 0.5))
