"""Reproduces tables: measures what is missing, and writes Markdown, JSON and drawings."""

from __future__ import annotations

import dataclasses
import fcntl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from diekae.data.example import DataError
from diekae.fields import check_choice
from diekae.files import write_atomically
from diekae_research.cells import Cell, Result
from diekae_research.provenance import write_json
from diekae_research.tables import figure3, figure4, table1, table2, table3, table4, table5
from diekae_research.tables.draw import draw
from diekae_research.tables.lab import Lab
from diekae_research.tables.sheet import Report, markdown

TABLES: dict[str, ModuleType] = {
    module.__name__.rpartition(".")[2]: module for module in (table1, table2, table3, table4, table5, figure3, figure4)
}
"""Each has ``TITLE``, ``cells(lab)``, which raises `DataError` if its data is missing, and ``report(lab, results)``."""
Tell = Callable[[str], None]
"""Called with a message on the progress."""


def table_names(name: str) -> list[str]:
    """Return the tables that a name means: itself, or all of them for ``all``.

    Raises:
        ValueError: No table has that name.
    """
    check_choice(f"table {name!r}", name, [*TABLES, "all"])
    return list(TABLES) if name == "all" else [name]


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Lock a folder for this process until the block or the process ends.

    Raises:
        RuntimeError: Another process has locked it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RuntimeError(
                f"another process is at work in {str(folder)!r} and would lose its checkpoints; wait until it has "
                "ended, or name another folder with --out."
            ) from error
        yield


def reproduce(
    name: str, lab: Lab, json: str | Path | None = None, tell: Tell = lambda _text: None
) -> dict[str, Report]:
    """Measure and write a table, or all of them in order.

    Args:
        name: A table's name, or ``all``.
        lab: Decoder, data and plan.
        json: Path of the figures; None is ``NAME.json`` in the lab's folder.
        tell: Called with messages on the progress.

    Returns:
        The reports by name; under ``all`` without the tables whose data is missing.

    Raises:
        ValueError: The name is unknown.
        DataError: The table's data is missing.
        RuntimeError: Another process works in the lab's folder.
    """
    with alone(lab.out):
        cells = _collect_cells(table_names(name), lab, tell)
        missing = {lab.cells.path(cell) for table in cells.values() for cell in table if lab.cells.find(cell) is None}
        tell(f"{len(missing)} measurements to make")
        reports: dict[str, Report] = {}
        values: dict[str, Any] = {}
        for table in cells:
            results = []
            for cell in cells[table]:
                results.append(lab.cells.get(cell))
                if lab.cells.path(cell) in missing:
                    missing.remove(lab.cells.path(cell))
                    tell(f"{cell.name} is measured, {len(missing)} measurements are left")
            lab.tidy()
            reports[table] = TABLES[table].report(lab, results)
            values[table] = _write(table, lab, cells[table], results, reports[table])
            tell(f"{table}: {lab.out / f'{table}.md'}")
        about = {"plan": lab.plan.to_dict(), "missing": lab.missing, "left_out": lab.left_out}
        write_json(json or lab.out / f"{name}.json", {**about, **values})
    return reports


def _collect_cells(names: Sequence[str], lab: Lab, tell: Tell) -> dict[str, list[Cell]]:
    """Return the cells of every table whose data is present; a single table must have its data."""
    cells = {}
    for table in names:
        try:
            cells[table] = TABLES[table].cells(lab)
        except DataError as error:
            if len(names) == 1:
                raise
            tell(f"{table} is left out: {error}")
    for name, reason in lab.missing.items():
        tell(f"data set {name} is missing: {reason}")
    return cells


def _write(table: str, lab: Lab, cells: Sequence[Cell], results: Sequence[Result], report: Report) -> dict[str, Any]:
    """Write a table's Markdown page and drawings, and return its JSON values."""
    title = TABLES[table].TITLE
    plan = ", ".join(f"{key}={value}" for key, value in lab.plan.to_dict().items())
    remarks = [f"Settings: {plan}.", *(f"Missing: {name} ({why})." for name, why in lab.missing.items())]
    for name, parts in lab.left_out.items():
        counts = ", ".join(f"{count} of {total} in {part}" for part, (count, total) in parts.items() if count)
        if counts:
            remarks.append(f"Left out of {name} for more than {lab.plan.longest} tokens of knowledge: {counts}.")
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
