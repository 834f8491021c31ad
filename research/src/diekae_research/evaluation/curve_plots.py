"""Plots of the curves that :func:`diekae_research.evaluation.curves.measure_curves` measures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from diekae.evaluation.plots import ACCENT, MUTED, shares, style


def draw_curves(measured: Mapping[str, Any]) -> Figure:
    """Draw the result of `measure_curves`, ours beside D(K, x)."""
    figure = Figure(figsize=(14, 3.6), layout="constrained")
    documents, lengths, positions, copies = figure.subplots(1, 4)
    for axis, key, title, label in (
        (documents, "documents", "several documents, one matters", "documents"),
        (lengths, "lengths", "one long knowledge", "tokens of K, about"),
    ):
        style(axis, title, label)
        axis.set_xscale("log", base=2)
        values = [point[key] for point in measured[key]]
        _pair(axis, values, measured[key])
        axis.set_xticks(values, [str(value) for value in values])
        axis.minorticks_off()
    style(positions, "along the target", "target token")
    _pair(positions, range(len(measured["positions"])), measured["positions"])
    names = [_positions(point) for point in measured["positions"]]
    positions.set_xticks(range(len(names)), names)
    style(copies, "whether K contains the target", "")
    names = [f"{'copied' if point['copied'] else 'not'} (n={point['n']})" for point in measured["copies"]]
    copies.bar(names, shares(measured["copies"]), 0.5, color=ACCENT)
    documents.set_ylabel("recovered", fontsize=9)
    documents.legend(frameon=False, fontsize=8)
    return figure


def _pair(axis: Any, x: Any, points: Any) -> None:
    """Draw D(K, x) and ours."""
    axis.plot(x, shares(points, "recovered_prompted"), color=MUTED, marker="o", markersize=3, label="D(K,x)")
    axis.plot(x, shares(points), color=ACCENT, marker="o", markersize=3, label="ours")


def _positions(point: Mapping[str, Any]) -> str:
    """Name a group of target tokens, counted from one."""
    first, end = point["from"] + 1, point["to"]
    return f"{first}–" if end is None else str(first) if end == first else f"{first}–{end}"
