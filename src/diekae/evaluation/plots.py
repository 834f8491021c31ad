"""Plots of measurements, as Matplotlib figures."""

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
    """Return the suffix that a plot is written as, one of `KINDS` (ValueError). Call it before a long measurement."""
    kind = Path(path).suffix.lower()
    if kind not in KINDS:
        raise ValueError(f"{str(path)!r}: a plot cannot be written as {kind!r}; choose one of {', '.join(KINDS)}.")
    return kind


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure; the path's suffix gives the kind."""
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
    windows.bar([entry["layers"][0] for entry in entries], _recovered(entries), color=ACCENT)
    style(hidden, "lost where K is hidden in one layer", "layer")
    hidden.bar(
        [entry["layer"] for entry in measured["hidden"]],
        [1 - share for share in _recovered(measured["hidden"])],
        color=ACCENT,
    )
    style(chosen, "recovered, layers chosen one by one", "layer that is added")
    steps = range(len(measured["chosen"]))
    chosen.plot(steps, _recovered(measured["chosen"]), color=ACCENT, marker="o", markersize=3)
    chosen.set_xticks(steps, [str(entry["layers"][-1]) for entry in measured["chosen"]])
    chosen.axhline(1.0, color=MUTED, linewidth=0.8, linestyle=":")
    return figure


def style(axis: Any, title: str, label: str) -> None:
    """Set an axis's title and label, and remove what is not data."""
    axis.set_title(title, loc="left", fontsize=10, color=INK)
    axis.set_xlabel(label, fontsize=9)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.axhline(0.0, color=MUTED, linewidth=0.8)


def _recovered(entries: Any) -> list[float]:
    """Return what is recovered in each entry; NaN, which is not drawn, where it is undefined."""
    return [float("nan") if entry["recovered"] is None else entry["recovered"] for entry in entries]
