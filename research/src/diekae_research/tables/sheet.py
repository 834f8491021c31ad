"""What a table or figure produces: sheets of text cells, for Markdown and the console, and panels of curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from diekae_research.evaluation.intervals import Interval

NOTHING = "–"
"""Stands for a figure that is not defined."""
GAP = 3
"""Characters between two columns of a console table."""


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
    keys: int = 1
    """Number of leading columns that name a row."""

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
    """Lay a sheet out for a console of ``width`` characters: columns that do not fit go into a further table below."""
    widths = [GAP + max(map(len, cells)) for cells in zip(sheet.columns, *sheet.rows, strict=True)]
    keys = list(range(sheet.keys))
    groups: list[list[int]] = [[]]
    for column in range(sheet.keys, len(sheet.columns)):
        if groups[-1] and sum(widths[n] for n in (*keys, *groups[-1], column)) > width:
            groups.append([])
        groups[-1].append(column)
    tables: list[Table] = []
    for group in groups:
        title = None if tables else escape(sheet.title)
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
        for column in (*keys, *group):
            table.add_column(escape(sheet.columns[column]), justify="left" if column in keys else "right")
        for row in sheet.rows:
            table.add_row(*(escape(row[column]) for column in (*keys, *group)))
        tables.append(table)
    return tables
