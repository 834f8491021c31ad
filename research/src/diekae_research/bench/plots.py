"""Plots of how cost grows. Each curve has one panel, in multiples of D(x); its legend gives the fitted exponents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from diekae.evaluation.plots import ACCENT, INK, MUTED

COLOURS = {"bare": MUTED, "prompted": MUTED, "exact": ACCENT, "token": "#c2571a"}
OTHER_COLOURS = ("#6a4c93", "#2a7f3f", INK, "#9a8c1f", "#3f7f9f", "#9f3f6f")
LABELS = {
    "bare": "D(x)",
    "prompted": "D(K,x)",
    "prompted_cached": "D(K,x) cached",
    "prompted_static": "D(K,x) cached, static",
    "bank": "the user's bank",
}
TITLES = {
    "knowledge": "tokens of K",
    "inputs": "tokens of x",
    "layers": "layers that receive",
    "batch": "rows of a batch",
    "documents": "documents of 256 tokens",
}


def draw_growth(result: Mapping[str, Any]) -> Figure:
    """Draw all curves of a benchmark's result."""
    curves = result["curves"]
    figure = Figure(figsize=(4.4 * len(curves), 3.9), layout="constrained")
    axes = figure.subplots(1, len(curves), squeeze=False)[0]
    for axis, (name, curve) in zip(axes, curves.items(), strict=True):
        _draw(axis, name, curve)
    what = {"decode": "a generated token", "prepare": "K read and one pass"}.get(result["benchmark"], "one pass")
    base = _base(curves["knowledge"])
    axes[0].set_ylabel(f"{what}, × {LABELS[base]}", fontsize=9)
    return figure


def _base(curve: Mapping[str, Any]) -> str:
    """Return the way that the others are compared with: D(x), or D(K, x) if D(x) was not measured."""
    return "bare" if "bare" in curve["seconds"] else "prompted"


def _draw(axis: Any, name: str, curve: Mapping[str, Any]) -> None:
    """Draw each way as a multiple of the base, so that a slow minute of the machine slows both."""
    axis.set_title(TITLES.get(name, name), loc="left", fontsize=10, color=INK)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_xscale("log", base=2)
    points, colours, base = curve["points"], list(OTHER_COLOURS), curve["seconds"][_base(curve)]
    for way, seconds in curve["seconds"].items():
        multiples = [value / base_value for value, base_value in zip(seconds, base, strict=True)]
        colour = COLOURS.get(way) or colours.pop(0)
        axis.plot(points, multiples, color=colour, marker="o", markersize=3, linewidth=1.5, label=_label(curve, way))
    axis.set_xticks(points, [str(point) for point in points], rotation=45 if len(points) > 6 else 0)
    axis.minorticks_off()
    axis.set_ylim(bottom=0)
    # Below the panel, because the curves fill it.
    axis.legend(frameon=False, fontsize=7.5, loc="upper center", bbox_to_anchor=(0.5, -0.12))


def _label(curve: Mapping[str, Any], way: str) -> str:
    power, added = curve["exponent"][way], curve["exponent_added"].get(way)
    parts = [] if power is None else [f"∝ n^{power:.2f}"]
    if added is not None:
        parts.append(f"added ∝ n^{added:.2f}")
    name = LABELS.get(way, way)
    return f"{name}: {', '.join(parts)}" if parts else name
