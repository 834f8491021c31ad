"""What a table or figure produces: sheets of text cells, and panels of curves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from diekae_research.evaluation.intervals import Interval

NOTHING = "–"
"""Stands for a figure that is not defined."""


@dataclass(frozen=True)
class Sheet:
    """A grid of text cells."""

    title: str
    """What is shown."""
    columns: tuple[str, ...]
    """Headings."""
    rows: list[list[str]]
    """Rows, each with as many cells as there are headings."""
    notes: tuple[str, ...] = ()
    """What a reader must know, one sentence or more each."""

    def __post_init__(self) -> None:
        """Check the lengths of the rows."""
        assert all(len(row) == len(self.columns) for row in self.rows), f"{self.title}: a row has another length"


@dataclass(frozen=True)
class Curve:
    """One line of a panel."""

    label: str
    """Its label in the legend."""
    points: list[tuple[float, float]]
    """(x, y), in order."""


@dataclass(frozen=True)
class Panel:
    """One diagram of a figure."""

    title: str
    """Its heading."""
    x: str
    """Label of the horizontal axis."""
    y: str
    """Label of the vertical axis."""
    curves: list[Curve]
    """What is drawn."""
    logarithmic: bool = False
    """Whether the vertical axis is logarithmic."""


@dataclass(frozen=True)
class Report:
    """The content of one table or figure."""

    sheets: list[Sheet]
    """At least one, for figures too: a drawing alone cannot be quoted."""
    panels: list[Panel] = field(default_factory=list)
    """The diagrams of a figure."""


def interval(value: Interval | None, digits: int = 3, scale: float = 1.0) -> str:
    """Print a figure with its 95 % interval."""
    if value is None:
        return NOTHING
    middle, low, high = (number(part * scale, digits) for part in value)
    return f"{middle} [{low}, {high}]"


def number(value: float | None, digits: int = 2) -> str:
    """Print a number, with an exponent from 10⁵ on."""
    if value is None or math.isnan(value):
        return NOTHING
    return f"{value:.2e}" if abs(value) >= 1e5 else f"{value:.{digits}f}"


def grid(heads: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """Return a table in Markdown."""
    lines = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in (heads, *rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], ["---"] * len(heads), *lines[1:]))


def markdown(heading: str, sheets: Sequence[Sheet], remarks: Sequence[str] = ()) -> str:
    """Write sheets as one Markdown page."""
    lines = [f"# {heading}", ""]
    for sheet in sheets:
        lines += [f"## {sheet.title}", "", grid(sheet.columns, sheet.rows)]
        lines += ["", *(f"- {note}" for note in sheet.notes), ""]
    return "\n".join([*lines, *(f"- {remark}" for remark in remarks)]).rstrip() + "\n"
