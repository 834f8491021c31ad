"""Plots of measurements, as Matplotlib figures."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from diekae.files import write_atomically

INK, ACCENT, MUTED = "#1b1f24", "#0b6e99", "#8a939c"
"""Colours of text, of what is measured, and of what it is compared with."""
KINDS = (".png", ".svg", ".pdf")


def check_kind(path: str | Path) -> str:
    """Return the suffix that a plot is written as. Call it before a long measurement, to fail early.

    Raises:
        ValueError: The suffix is none of `KINDS`.
    """
    kind = Path(path).suffix.lower()
    if kind not in KINDS:
        raise ValueError(f"{str(path)!r}: a plot cannot be written as {kind!r}; choose one of {', '.join(KINDS)}.")
    return kind


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure; the path's suffix gives the kind.

    Raises:
        ValueError: The suffix is not known.
    """
    kind = check_kind(path)
    data = io.BytesIO()
    # Without a date and with fixed ids, the same figures give the same file.
    metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(kind, {})
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "diekae"}):
        figure.savefig(data, format=kind[1:], dpi=160, metadata=metadata)
    write_atomically(Path(path), data.getvalue())


def draw_layers(measured: Mapping[str, Any]) -> Figure:
    """Draw the result of `diekae.evaluation.layers.measure_layers`: windows, single layers, and the choice."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    windows, hidden, chosen = figure.subplots(1, 3)
    entries = measured["windows"]
    style(windows, "recovered, K visible in a window alone", "first layer of the window")
    windows.bar([entry["layers"][0] for entry in entries], _shares(entries), color=ACCENT)
    style(hidden, "lost where K is hidden in one layer", "layer")
    hidden.bar(
        [entry["layer"] for entry in measured["hidden"]],
        [1 - share for share in _shares(measured["hidden"])],
        color=ACCENT,
    )
    style(chosen, "recovered, layers chosen one by one", "layer that is added")
    steps = range(len(measured["chosen"]))
    chosen.plot(steps, _shares(measured["chosen"]), color=ACCENT, marker="o", markersize=3)
    chosen.set_xticks(steps, [str(entry["layers"][-1]) for entry in measured["chosen"]])
    chosen.axhline(1.0, color=MUTED, linewidth=0.8, linestyle=":")
    return figure


def draw_curves(measured: Mapping[str, Any]) -> Figure:
    """Draw the result of `diekae_research.evaluation.curves.measure_curves`, ours beside D(K, x)."""
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
    copies.bar(names, _shares(measured["copies"]), 0.5, color=ACCENT)
    documents.set_ylabel("recovered", fontsize=9)
    documents.legend(frameon=False, fontsize=8)
    return figure


def _pair(axis: Any, x: Any, points: Any) -> None:
    """Draw D(K, x) and ours."""
    axis.plot(x, _shares(points, "recovered_prompted"), color=MUTED, marker="o", markersize=3, label="D(K,x)")
    axis.plot(x, _shares(points), color=ACCENT, marker="o", markersize=3, label="ours")


def _positions(point: Mapping[str, Any]) -> str:
    """Name a group of target tokens, counted from one."""
    first, end = point["from"] + 1, point["to"]
    return f"{first}–" if end is None else str(first) if end == first else f"{first}–{end}"


def style(axis: Any, title: str, label: str) -> None:
    """Set an axis's title and label, and remove what is not data."""
    axis.set_title(title, loc="left", fontsize=10, color=INK)
    axis.set_xlabel(label, fontsize=9)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.axhline(0.0, color=MUTED, linewidth=0.8)


def _shares(entries: Any, key: str = "recovered") -> list[float]:
    """Return a share of each entry; NaN, which is not drawn, where it is undefined."""
    return [float("nan") if entry[key] is None else entry[key] for entry in entries]
