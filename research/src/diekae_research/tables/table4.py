"""Table 4: peak memory over the length of the context. Every row is measured, none is a sum.

In the paper, rows hold autograd graphs, and the row D(E(K, x) + x) is a sum (design, section 7).
"""

from __future__ import annotations

from collections.abc import Sequence

from diekae_research.cells import Cell, Result
from diekae_research.tables.lab import Lab
from diekae_research.tables.probe import INPUT_TOKENS, PeakRequest, probe
from diekae_research.tables.sheet import NOTHING, Report, Sheet

TITLE = "Table 4: peak memory over context length"
SHORTEST = 128
"""Tokens of the shortest context; it is doubled up to the longest."""
LEAST = 32
"""Least tokens of a context whose longest length is under :data:`SHORTEST`."""
ROWS = {
    "D(x)": ("bare", "reader"),
    "D(K,x)": ("prompted", "reader"),
    "ours, reader": ("ours", "reader"),
    "ours, reader, K prepared": ("ours_prepared", "reader"),
    "ours, attention": ("ours", "attention"),
    "ours, attention, K prepared": ("ours_prepared", "attention"),
    "ours, token": ("ours", "token"),
    "ours, token, K prepared": ("ours_prepared", "token"),
}
"""Way and encoder by label."""
OWN_PRESET = ("attention",)
"""Encoders that need the preset of their name, because they suit no other site; others use the plan's preset."""
PAPER = {
    "D(x)": "13.61 at 10",
    "D(K,x)": "16.86 at 512, 20.24 at 1024, out of memory at 2048",
    "ours, token": "14.13 at 512, 14.85 at 1024, 17.71 at 2048",
}
"""GB on an RTX 3090 with LLaMA2-7B, whose weights take most of it."""
_NOTES = (
    f"MB that a forward pass over the context adds at its peak to what was held before it, in brackets the peak of the "
    f"whole process (CPU) or of the allocator (GPU); no gradients, one fresh process a cell. Context: anchor, K and "
    f"{INPUT_TOKENS} tokens of x; D(x) has no K at any length.",
    "ours: K is read in the measured call; K prepared: it was read before. paper: GB, weights included.",
)


def lengths(longest: int) -> list[int]:
    """Return 128, 256, … up to the longest."""
    if longest < SHORTEST:
        return [max(LEAST, longest)]
    doubled = [SHORTEST]
    while doubled[-1] * 2 <= longest:
        doubled.append(doubled[-1] * 2)
    return doubled


def _lengths(lab: Lab) -> list[int]:
    return lengths(min(lab.window, lab.plan.context))


def cells(lab: Lab) -> list[Cell]:
    """Return a cell for each row and length."""
    return [_cell(lab, label, tokens) for label in ROWS for tokens in _lengths(lab)]


def _cell(lab: Lab, label: str, tokens: int) -> Cell:
    way, encoder = ROWS[label]
    preset = encoder if encoder in OWN_PRESET else lab.plan.preset
    request = PeakRequest(lab.plan.model, way, tokens, encoder, preset, lab.decoder.device.type, lab.plan.dtype)
    settings = {**lab.identity, "way": way, "tokens": tokens, "encoder": encoder, "preset": preset}
    return Cell(f"memory-{way}-{encoder}-{tokens}", settings, lambda: dict(probe(request)))


def report(lab: Lab, results: Sequence[Result]) -> Report:
    """Lay the peaks out, in MB."""
    columns, remaining, rows = _lengths(lab), iter(results), []
    for label in ROWS:
        peaks = [next(remaining) for _ in columns]
        rows.append([label, *map(_print_peak, peaks), PAPER.get(label, NOTHING)])
    return Report([Sheet(TITLE, ("method", *(f"{n} tokens" for n in columns), "paper, GB"), rows, _NOTES)])


def _print_peak(peak: Result) -> str:
    return f"{peak['added'] / 1e6:.1f} ({peak['peak'] / 1e6:,.0f})" if peak else "out of memory"
