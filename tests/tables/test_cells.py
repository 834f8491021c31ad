"""Cells: a result is measured once, read back, and never mistaken for another's."""

from pathlib import Path
from typing import Any

import pytest

from diekae.tables.cells import Cell, Cells


def make_cell(calls: list[int], **settings: Any) -> Cell:
    return Cell("row", settings, 1.0, lambda: {"value": len(calls)} if calls.append(1) is None else {})


def test_a_cell_is_measured_once(tmp_path: Path) -> None:
    calls: list[int] = []
    cell = make_cell(calls, seed=0, sizes=[1, 2])
    assert Cells(tmp_path).find(cell) is None
    assert Cells(tmp_path).get(cell) == {"value": 1}
    assert Cells(tmp_path).get(cell) == {"value": 1}
    assert len(calls) == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_changed_settings_are_another_cell(tmp_path: Path) -> None:
    calls: list[int] = []
    cells = Cells(tmp_path)
    for settings in ({"seed": 0}, {"seed": 1}, {"seed": 0, "longest": 9}):
        cells.get(make_cell(calls, **settings))
    assert len(calls) == 3
    assert make_cell([], a=1, b=2).key == make_cell([], b=2, a=1).key


def test_a_file_that_was_cut_is_measured_again(tmp_path: Path) -> None:
    calls: list[int] = []
    cells, cell = Cells(tmp_path), make_cell(calls)
    cells.get(cell)
    path = cells.path(cell)
    path.write_text(path.read_text()[:20])
    assert cells.get(cell) == {"value": 2}


def test_a_measurement_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> dict[str, Any]:
        raise KeyboardInterrupt

    cells = Cells(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        cells.get(Cell("row", {}, 1.0, fail))
    assert not list(tmp_path.iterdir())
