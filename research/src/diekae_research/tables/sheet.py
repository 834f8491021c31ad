"""What a table or figure hands over, sheets of text cells and panels of curves; as Markdown and for a console."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from diekae_research.evaluation.bootstrap import Interval

NOTHING = "–"
"""Where a figure is not defined."""
GAP = 3
"""Characters between two columns of a console table."""


@dataclass(frozen=True)
class Sheet:
    """One grid."""

    title: str
    """What is shown."""
    columns: tuple[str, ...]
    """Headings."""
    rows: list[list[str]]
    """As many cells as headings in each."""
    notes: tuple[str, ...] = ()
    """What a reader needs to read it rightly, a sentence each."""
    keys: int = 1
    """Leading columns that say what a row is of."""

    def __post_init__(self) -> None:
        """Check that the grid is one."""
        assert all(len(row) == len(self.columns) for row in self.rows), f"{self.title}: a row has another length"


@dataclass(frozen=True)
class Curve:
    """One line."""

    label: str
    """In the legend."""
    points: list[tuple[float, float]]
    """(x, y), in order."""


@dataclass(frozen=True)
class Panel:
    """One drawing of a figure."""

    title: str
    """Above it."""
    x: str
    """Label of the horizontal axis."""
    y: str
    """Label of the vertical axis."""
    curves: list[Curve]
    """What is drawn."""
    logarithmic: bool = False
    """Whether the vertical axis is."""


@dataclass(frozen=True)
class Report:
    """A table or figure, made."""

    sheets: list[Sheet]
    """At least one, figures included, for a drawing alone cannot be quoted."""
    panels: list[Panel] = field(default_factory=list)
    """For a figure."""


def interval(value: Interval | None, digits: int = 3, scale: float = 1.0) -> str:
    """Print a figure with its 95 % interval."""
    if value is None:
        return NOTHING
    middle, low, high = (number(part * scale, digits) for part in value)
    return f"{middle} [{low}, {high}]"


def number(value: float | None, digits: int = 2) -> str:
    """Print a number, with an exponent where it is huge."""
    if value is None or math.isnan(value):
        return NOTHING
    return f"{value:.2e}" if abs(value) >= 1e5 else f"{value:.{digits}f}"


def markdown(heading: str, sheets: Sequence[Sheet], remarks: Sequence[str] = ()) -> str:
    """Write sheets as one Markdown page."""
    lines = [f"# {heading}", ""]
    for sheet in sheets:
        lines += [f"## {sheet.title}", "", _line(sheet.columns), _line(["---"] * len(sheet.columns))]
        lines += [_line(row) for row in sheet.rows]
        lines += ["", *(f"- {note}" for note in sheet.notes), ""]
    return "\n".join([*lines, *(f"- {remark}" for remark in remarks)]).rstrip() + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def console_tables(sheet: Sheet, width: int) -> list[Table]:
    """Lay a sheet out for a console of so many characters: what does not fit goes on below."""
    needed = [max(len(row[place]) for row in (sheet.columns, *sheet.rows)) + GAP for place in range(len(sheet.columns))]
    keys = list(range(sheet.keys))
    groups: list[list[int]] = [[]]
    for place in range(sheet.keys, len(sheet.columns)):
        if groups[-1] and sum(needed[n] for n in (*keys, *groups[-1], place)) > width:
            groups.append([])
        groups[-1].append(place)
    tables = []
    for number, group in enumerate(groups):
        table = Table(title=None if number else escape(sheet.title), title_justify="left", box=SIMPLE_HEAD)
        for place in (*keys, *group):
            table.add_column(escape(sheet.columns[place]), justify="left" if place in keys else "right")
        for row in sheet.rows:
            table.add_row(*(escape(row[place]) for place in (*keys, *group)))
        tables.append(table)
    return tables
