"""How cost grows, drawn: one panel a curve, as multiples of D(x), the fitted exponents in the legend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from diekae.evaluation.plots import ACCENT, INK, MUTED

COLOURS = {
    "bare": MUTED,
    "prompted": MUTED,
    "exact": ACCENT,
    "token": "#c2571a",
}
REST = ("#6a4c93", "#2a7f3f", INK, "#9a8c1f", "#3f7f9f", "#9f3f6f")
LABELS = {
    "bare": "D(x)",
    "prompted": "D(K,x)",
    "prompted_cached": "D(K,x) cached",
    "prompted_static": "D(K,x) cached, static",
    "bank": "the given bank",
}
TITLES = {
    "knowledge": "tokens of K",
    "inputs": "tokens of x",
    "layers": "layers that receive",
    "batch": "rows of a batch",
    "documents": "documents of 256 tokens",
}


def draw_growth(found: Mapping[str, Any]) -> Figure:
    """Draw all curves of a benchmark's result."""
    curves = found["curves"]
    figure = Figure(figsize=(4.4 * len(curves), 3.9), layout="constrained")
    axes = figure.subplots(1, len(curves), squeeze=False)[0]
    for axis, (name, curve) in zip(axes, curves.items(), strict=True):
        _draw(axis, name, curve)
    what = {"decode": "a generated token", "prepare": "K read and one pass"}.get(found["benchmark"], "one pass")
    base = "bare" if "bare" in curves["knowledge"]["seconds"] else "prompted"
    axes[0].set_ylabel(f"{what}, × {LABELS[base]}", fontsize=9)
    return figure


def _draw(axis: Any, name: str, curve: Mapping[str, Any]) -> None:
    """Draw each way as a multiple of D(x), or of D(K, x) where that was not run: slow minutes slow both."""
    axis.set_title(TITLES.get(name, name), loc="left", fontsize=10, color=INK)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_xscale("log", base=2)
    points, rest, seconds = curve["points"], list(REST), curve["seconds"]
    base = "bare" if "bare" in seconds else "prompted"
    for way, values in seconds.items():
        power, added = curve["exponent"][way], curve["exponent_added"].get(way)
        parts = [f"∝ n^{power:.2f}"] if power is not None else []
        parts += [f"added ∝ n^{added:.2f}"] if added is not None else []
        label = f"{LABELS.get(way, way)}: {', '.join(parts)}" if parts else LABELS.get(way, way)
        shares = [value / under for value, under in zip(values, seconds[base], strict=True)]
        colour = COLOURS.get(way) or rest.pop(0)
        axis.plot(points, shares, color=colour, marker="o", markersize=3, linewidth=1.5, label=label)
    axis.set_xticks(points, [str(point) for point in points], rotation=45 if len(points) > 6 else 0)
    axis.minorticks_off()
    axis.set_ylim(bottom=0)
    # Below the panel: the curves fill it.
    axis.legend(frameon=False, fontsize=7.5, loc="upper center", bbox_to_anchor=(0.5, -0.12))
