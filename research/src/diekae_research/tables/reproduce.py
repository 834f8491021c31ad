"""Carries tables out: estimates, measures what is not there yet, and writes Markdown, JSON and drawings."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from diekae.data.example import DataError, nearest
from diekae.files import alone, write_atomically
from diekae_research.provenance import write_json
from diekae_research.tables import figure3, figure4, table1, table2, table3, table4, table5
from diekae_research.tables.cells import Cell, Result
from diekae_research.tables.draw import draw
from diekae_research.tables.lab import Lab
from diekae_research.tables.sheet import Report, markdown

TABLES: dict[str, ModuleType] = {
    module.__name__.rpartition(".")[2]: module for module in (table1, table2, table3, table4, table5, figure3, figure4)
}
"""Each has ``TITLE``, ``cells(lab)`` and ``report(lab, results)``."""
Tell = Callable[[str], None]
PROBE = (4, 256)
"""Rows and columns of the pass that measures the decoder's speed; columns are cut to the window."""


def table_names(name: str) -> list[str]:
    """Return the tables that a name means: itself, or every one for ``all``.

    Raises:
        ValueError: There is no such table.
    """
    if name == "all":
        return list(TABLES)
    if name not in TABLES:
        raise ValueError(f"unknown table {name!r}{nearest(name, [*TABLES, 'all'])}; there are {', '.join(TABLES)}, all")
    return [name]


def reproduce(
    name: str, lab: Lab, json: str | Path | None = None, tell: Tell = lambda _text: None
) -> dict[str, Report]:
    """Measure and write a table, or all of them in order.

    Args:
        name: A table's name, or ``all``.
        lab: Where.
        json: Where the figures go; ``NAME.json`` in the lab's folder if None.
        tell: Told in words how far it is.

    Returns:
        What was made, by name; under ``all`` without the tables that have no data at hand.

    Raises:
        ValueError: The name is not known.
        DataError: The table has no data at hand.
        RuntimeError: Another process is at work in the lab's folder.
    """
    with alone(lab.out):
        return _reproduce(name, lab, json, tell)


def _reproduce(name: str, lab: Lab, json: str | Path | None, tell: Tell) -> dict[str, Report]:
    planned = _plan(table_names(name), lab, tell)
    estimate = _Estimate(lab, [cell for cells in planned.values() for cell in cells], tell)
    made: dict[str, Report] = {}
    written: dict[str, Any] = {}
    for table, cells in planned.items():
        results = [estimate.get(cell) for cell in cells]
        lab.tidy()
        made[table] = TABLES[table].report(lab, results)
        written[table] = _write(table, lab, cells, results, made[table])
        tell(f"{table}: {lab.out / f'{table}.md'}")
    about = {"plan": lab.plan.to_dict(), "missing": lab.missing, "left_out": lab.left_out}
    write_json(json or lab.out / f"{name}.json", {**about, **written})
    return made


def _plan(names: Sequence[str], lab: Lab, tell: Tell) -> dict[str, list[Cell]]:
    """Return the cells of every table that has data; one that was asked for alone must have them."""
    planned = {}
    for table in names:
        try:
            planned[table] = TABLES[table].cells(lab)
        except DataError as error:
            if len(names) == 1:
                raise
            tell(f"{table} is left out: {error}")
    for name, reason in lab.missing.items():
        tell(f"data set {name} takes no part: {reason}")
    return planned


class _Estimate:
    """Measures cells and says how long the rest will take."""

    def __init__(self, lab: Lab, cells: Sequence[Cell], tell: Tell) -> None:
        self.lab, self.tell = lab, tell
        self.open = {lab.cells.path(cell).name: cell.work for cell in cells if lab.cells.find(cell) is None}
        self.count, self.total = len({lab.cells.path(cell).name for cell in cells}), len(self.open)
        self.worked, self.spent = 0.0, 0.0
        done = self.count - self.total
        tell(f"{self.total} of {self.count} measurements to make, {done} read back")
        if self.open:
            self.speed = tokens_a_second(lab)
            tell(f"about {_minutes(sum(self.open.values()) / self.speed)} at {self.speed:,.0f} tokens a second")

    def get(self, cell: Cell) -> Result:
        """Return a cell's result, measured if need be, and say what is left."""
        name = self.lab.cells.path(cell).name
        if name not in self.open:
            return self.lab.cells.get(cell)
        start = time.perf_counter()
        result = self.lab.cells.get(cell)
        self.spent += time.perf_counter() - start
        self.worked += self.open.pop(name)
        speed = self.worked / self.spent if self.worked else self.speed
        left = _minutes(sum(self.open.values()) / speed)
        self.tell(f"{cell.name}: {self.total - len(self.open)} of {self.total} made, about {left} left")
        return result


def _left_out(lab: Lab) -> list[str]:
    """Say how many examples had more knowledge than the plan allows."""
    found = []
    for name, parts in lab.left_out.items():
        counts = ", ".join(f"{left} of {met} in {part}" for part, (left, met) in parts.items() if left)
        if counts:
            found.append(f"Left out of {name} for more than {lab.plan.longest} tokens of knowledge: {counts}.")
    return found


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:.0f} seconds"


@torch.no_grad()
def tokens_a_second(lab: Lab) -> float:
    """Measure the decoder's forward speed in tokens a second, warmed up."""
    rows, columns = PROBE
    columns = min(columns, lab.window // 2)
    ids = torch.ones(rows, columns, dtype=torch.long, device=lab.decoder.device)
    for _ in range(2):
        start = time.perf_counter()
        lab.decoder(input_ids=ids, use_cache=False, logits_to_keep=1).logits.sum().item()
        seconds = time.perf_counter() - start
    return rows * columns / seconds


def _write(table: str, lab: Lab, cells: Sequence[Cell], results: Sequence[Result], report: Report) -> dict[str, Any]:
    """Write a table's Markdown page and drawings; returns its JSON values."""
    title = TABLES[table].TITLE
    plan = ", ".join(f"{key}={value}" for key, value in lab.plan.to_dict().items())
    remarks = [f"Settings: {plan}.", *(f"Not at hand: {name} ({why})." for name, why in lab.missing.items())]
    remarks += _left_out(lab)
    write_atomically(lab.out / f"{table}.md", markdown(title, report.sheets, remarks))
    if report.panels:
        draw(report.panels, lab.out / table)
    return {
        "title": title,
        "sheets": [dataclasses.asdict(sheet) for sheet in report.sheets],
        "panels": [dataclasses.asdict(panel) for panel in report.panels],
        "cells": [
            {"name": cell.name, "settings": dict(cell.settings), "result": result}
            for cell, result in zip(cells, results, strict=True)
        ],
    }
