"""Plots of measured figures, as Matplotlib figures that stand on their own."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from diekae.files import write_atomically

INK, ACCENT, MUTED = "#1b1f24", "#0b6e99", "#8a939c"
KINDS = (".png", ".svg", ".pdf")


def check_kind(path: str | Path) -> str:
    """Return the suffix that a plot is written as, to be asked before minutes are spent on what is plotted.

    Raises:
        ValueError: The suffix is none of `KINDS`.
    """
    kind = Path(path).suffix.lower()
    if kind not in KINDS:
        raise ValueError(f"{str(path)!r}: a plot cannot be written as {kind!r}; choose one of {', '.join(KINDS)}.")
    return kind


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure, as what :func:`check_kind` says.

    Raises:
        ValueError: The suffix is not known.
    """
    kind = check_kind(path)
    data = io.BytesIO()
    # Without a date and with fixed ids the same figures make the same file.
    plain = {"Date": None} if kind == ".svg" else {"CreationDate": None} if kind == ".pdf" else {}
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "diekae"}):
        figure.savefig(data, format=kind[1:], dpi=160, metadata=plain)
    write_atomically(Path(path), data.getvalue())


def draw_layers(found: Mapping[str, Any]) -> Figure:
    """Draw what `diekae.evaluation.layers.measure_layers` found: windows, single layers, and the choice."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    windows, hidden, chosen = figure.subplots(1, 3)
    entries = found["windows"]
    style(windows, "recovered, K visible in a window alone", "first layer of the window")
    windows.bar([entry["layers"][0] for entry in entries], _shares(entries), color=ACCENT)
    style(hidden, "lost where K is hidden in one layer", "layer")
    hidden.bar(
        [entry["layer"] for entry in found["hidden"]], [1 - share for share in _shares(found["hidden"])], color=ACCENT
    )
    style(chosen, "recovered, layers chosen one by one", "layer that is added")
    steps = range(len(found["chosen"]))
    chosen.plot(steps, _shares(found["chosen"]), color=ACCENT, marker="o", markersize=3)
    chosen.set_xticks(steps, [str(entry["layers"][-1]) for entry in found["chosen"]])
    chosen.axhline(1.0, color=MUTED, linewidth=0.8, linestyle=":")
    return figure


def style(axis: Any, title: str, label: str) -> None:
    """Give an axis its title and take away what is no data."""
    axis.set_title(title, loc="left", fontsize=10, color=INK)
    axis.set_xlabel(label, fontsize=9)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.axhline(0.0, color=MUTED, linewidth=0.8)


def _shares(entries: Any) -> list[float]:
    """Return ``recovered`` of each entry; where it is undefined there is nothing to draw."""
    return [float("nan") if entry["recovered"] is None else entry["recovered"] for entry in entries]
