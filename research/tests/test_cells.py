"""Cells: a result is measured once, read back, and never confused with another cell's."""

import functools
from pathlib import Path
from typing import Any

import pytest

import diekae.provenance
from diekae.data.prompt import Prompt
from diekae_research import provenance
from diekae_research.cells import Cell, Cells, digest_prompts


def make_cell(calls: list[int], **settings: Any) -> Cell:
    return Cell("row", settings, lambda: {"value": len(calls)} if calls.append(1) is None else {})


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


@pytest.mark.parametrize("what", ["code", "research_code", "versions", "machine"])
def test_a_result_of_other_code_versions_or_machine_is_not_read_back(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    Cells(tmp_path).get(make_cell(calls, seed=0))
    before = provenance.provenance()
    assert before["code"] == diekae.provenance.code_digest()
    assert before["research_code"] == provenance.code_digest()
    monkeypatch.setattr(provenance, "provenance", lambda: {**before, what: "another"})
    assert Cells(tmp_path).find(make_cell(calls, seed=0)) is None
    assert Cells(tmp_path).get(make_cell(calls, seed=0)) == {"value": 2}


def test_the_digest_of_the_code_depends_on_its_files(tmp_path: Path) -> None:
    digest = diekae.provenance.code_digest.__wrapped__  # without its cache
    digests = [digest(tmp_path)]
    for name, text in (("a.py", "x = 1"), ("a.py", "x = 2"), ("b.py", "x = 2"), ("notes.txt", "no code")):
        (tmp_path / name).write_text(text)
        digests.append(digest(tmp_path))
    assert len(set(digests)) == 4 and digests[-1] == digests[-2]
    (tmp_path / "a.py").rename(tmp_path / "c.py")
    assert digest(tmp_path) not in digests, "names count too"


def test_the_digest_of_research_depends_on_its_templates_and_questions(tmp_path: Path) -> None:
    digest = functools.partial(diekae.provenance.code_digest.__wrapped__, tmp_path, provenance.SUFFIXES)
    digests = [digest()]
    for name in ("a.py", "kinds.toml", "questions.json"):
        (tmp_path / name).write_text("x = 1")
        digests.append(digest())
    assert len(set(digests)) == 4


def test_the_digest_of_prompts_depends_on_every_field() -> None:
    plain = Prompt((1,), (5, 6), (7,), (8,))
    others = [Prompt((1,), (5, 6), (7,), (9,)), Prompt((1,), (5, 6), (7,), (8,), apart=((5,), (6,)))]
    assert len({digest_prompts([prompt]) for prompt in (plain, *others)}) == 3


def test_an_incomplete_file_is_measured_again(tmp_path: Path) -> None:
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
        cells.get(Cell("row", {}, fail))
    assert not list(tmp_path.iterdir())
