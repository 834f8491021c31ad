"""The notebooks run, and are committed without outputs.

Their cells are plain Python, so they run here without a Jupyter kernel, on the decoder that the tests share.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from code_blocks import ROOT

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def code_cells(notebook: Path) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_a_notebook_is_plain_python_without_outputs(notebook: Path) -> None:
    for cell in code_cells(notebook):
        assert cell["outputs"] == [] and cell["execution_count"] is None
        compile("".join(cell["source"]), str(notebook), "exec")


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_a_notebook_runs(notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, smollm2) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("diekae.models.load_decoder", lambda *_args, **_options: smollm2)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(code_cells(notebook)):
        exec(compile("".join(cell["source"]), f"{notebook.name}, code cell {number}", "exec"), namespace)


def test_there_are_notebooks() -> None:
    assert len(NOTEBOOKS) == 2
