"""Plots of editing: quality and cost over the number of edits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from diekae.evaluation.plots import ACCENT, INK, MUTED, style

COLOURS = {"mention": MUTED, "learned": ACCENT}


def draw_growth(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw figures by number of edits: success of each gate, and milliseconds a question."""
    figure = Figure(figsize=(14, 3.8), layout="constrained")
    axes = figure.subplots(1, 4)
    titles = {"es": "ES: the edit", "ps": "PS: paraphrases", "ns": "NS: neighbours"}
    for axis, (key, title) in zip(axes, titles.items(), strict=False):
        style(axis, f"{title}, per cent", "edits in force")
        for gate, colour in COLOURS.items():
            points = [row for row in rows if row["gate"] == gate and row[key] is not None]
            sizes = [row["edits"] for row in points]
            axis.plot(sizes, [row[key]["value"] for row in points], color=colour, marker="o", markersize=3, label=gate)
            low, high = ([row[key][end] for row in points] for end in ("low", "high"))
            axis.fill_between(sizes, low, high, color=colour, alpha=0.15, linewidth=0)
        axis.set_ylim(40, 101)
    axes[0].legend(frameon=False, fontsize=8, title="gate", title_fontsize=8)
    style(axes[3], "milliseconds a question", "edits in force")
    known = [row for row in rows if row["gate"] == "learned"] or list(rows)
    lines = {"ms_gate": (ACCENT, "learned gate"), "ms_mention": (MUTED, "mention"), "ms_bare": (INK, "D(x)")}
    for key, (colour, label) in lines.items():
        sizes, values = ([row[name] for row in known] for name in ("edits", key))
        axes[3].plot(sizes, values, color=colour, marker="o", markersize=3, label=label)
    axes[3].set_yscale("log")
    axes[3].legend(frameon=False, fontsize=8)
    for axis in axes:
        axis.set_xscale("log")
    return figure
