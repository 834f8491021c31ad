"""Tables 2 to 5 and the figures, from the command line: figures agree with single examples."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from runs import FEW, make_lab, record_fits, row_nll, rows_of, run_table
from small import LABELS, write_decoder

from diekae.data.prompt import Prompt
from diekae_research.editing.cases import load_cases
from diekae_research.editing.scores import prompt_of
from diekae_research.evaluation.scoring import paper_perplexity
from diekae_research.methods import Task
from diekae_research.tables import augment, figure4, table2, table4, table5
from diekae_research.tables.probe import PeakRequest, probe


class Table2Run(NamedTuple):
    """A run of table 2."""

    values: dict[str, Any]
    page: str
    tasks: list[Task]
    """What the methods were fitted to."""
    heads: list[tuple[int, int]]
    """Numbers of examples that each head was trained on and chosen by."""


@pytest.fixture(scope="module")
def table2_run(source: Path) -> Table2Run:
    out, tasks, heads = source / "second", list[Task](), list[tuple[int, int]]()
    fit, train_head = table2.fit, table2.train_head

    def recording(train: Any, validation: Any) -> Any:
        heads.append((len(train[0]), len(validation[0])))
        return train_head(train, validation)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table2, "fit", lambda name, task: tasks.append(task) or fit(name, task))
        patch.setattr(table2, "train_head", recording)
        values = run_table(source, "table2", out, *FEW)
    return Table2Run(values, (out / "table2.md").read_text(), tasks, heads)


def test_table2_agrees_with_single_examples(source: Path, table2_run: Table2Run) -> None:
    values, lab = table2_run.values, make_lab(source)
    labels = [tuple(lab.tokenizer(f" {name}", add_special_tokens=False).input_ids) for name in LABELS]
    bare, _, ours = (cell["result"]["sets"] for cell in values["table2"]["cells"])
    for name in ("proofwriter", "folio"):
        rights = []
        for prompt in lab.parts(name).test:
            nll = [row_nll(lab, Prompt(prompt.anchor, (), prompt.input, label), False)[0] for label in labels]
            rights.append(float(labels[int(np.argmin(nll))] == prompt.target))
        assert bare[name]["likelihood"] == rights
        assert "head" not in bare[name] and len(ours[name]["head"]) == len(rights)
    rows = rows_of(values["table2"]["sheets"][0])
    assert len(rows) == 6 and rows[0]["head, %"] == "–" and rows[-1]["head, %"] != "–"
    assert "| ours | folio |" in table2_run.page


def test_reported_examples_choose_nothing(source: Path, table2_run: Table2Run) -> None:
    """The parts of a set share nothing, and only train and validation reach heads and checkpoints."""
    lab = make_lab(source)
    reported = {(p.knowledge, p.input) for name in table2.SETS for p in lab.parts(name).test}
    folio = {(p.knowledge, p.input) for p in lab.load("folio", "validation", None)}
    assert reported & folio, "FOLIO reports half of its validation part"
    assert {(p.knowledge, p.input) for p in lab.parts("folio").validation}.isdisjoint(
        (p.knowledge, p.input) for p in lab.parts("folio").test
    )
    assert len(table2_run.tasks) == 3
    for task in table2_run.tasks:
        assert all((p.knowledge, p.input) not in reported for p in (*task.train, *task.validation))
    assert table2_run.heads == [(len(lab.parts(name).train), len(lab.parts(name).validation)) for name in table2.SETS]


def test_table3_agrees_with_single_examples(source: Path, tmp_path: Path) -> None:
    values = run_table(source, "table3", tmp_path, "--methods", "bare,prompted,ours_finetuned_from_scratch")
    lab = make_lab(source)
    edits = load_cases(source / "data" / "counterfact", 12, 0)
    for cell, knowledge in zip(values["table3"]["cells"][:2], (False, True), strict=True):
        columns = cell["result"]["columns"]

        def likelier(edit: Any, text: str, knowledge: bool = knowledge) -> float:
            new, true = (
                row_nll(lab, prompt_of(lab.prompter, edit, text, y), knowledge)[0] for y in (edit.new, edit.true)
            )
            return float(new < true)

        # In bf16, padding decides near ties. So shares are compared, and not every case.
        es = [likelier(edit, edit.prompt) for edit in edits]
        assert np.mean(columns["es"]) == pytest.approx(np.mean(es), abs=0.1)
        ns = [np.mean([1 - likelier(edit, text) for text in edit.neighbours]) for edit in edits]
        assert np.mean(columns["ns"]) == pytest.approx(np.mean(ns), abs=0.1)
    ours = values["table3"]["cells"][2]
    assert ours["settings"]["knowledge"] is False and ours["settings"]["training"]["epochs"] == 5.0
    assert np.mean(ours["result"]["columns"]["es"]) >= np.mean(values["table3"]["cells"][0]["result"]["columns"]["es"])
    assert sum(ours["result"]["columns"]["drift"]) > 0
    assert sum(values["table3"]["cells"][0]["result"]["columns"]["drift"]) == 0
    (sheet,) = values["table3"]["sheets"]
    assert len(rows_of(sheet)) == 3 and sheet["notes"][-1].startswith("E(_, x): a reader attends to its null slot")


def test_table4_has_every_row_and_length(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[PeakRequest] = []

    def fake(request: PeakRequest) -> dict[str, int]:
        requests.append(request)
        return {"peak": 5_000_000 + request.tokens, "added": 1_000_000 * len(requests)}

    monkeypatch.setattr(table4, "probe", fake)
    values = run_table(source, "table4", tmp_path)
    rows = rows_of(values["table4"]["sheets"][0])
    assert [row["method"] for row in rows] == list(table4.ROWS)
    assert [row["128 tokens"] for row in rows] == [f"{n}.0 (5)" for n in range(1, 9)]
    assert {(request.way, request.encoder) for request in requests} == set(table4.ROWS.values())
    assert {(request.encoder, request.preset) for request in requests} == {
        ("reader", "default"),
        ("token", "default"),
        ("attention", "attention"),
    }
    run_table(source, "table4", tmp_path)
    assert len(requests) == 8, "nothing is measured twice"


@pytest.mark.slow
def test_peak_memory_is_measured_in_a_new_process(tmp_path: Path) -> None:
    folder = write_decoder(tmp_path, hidden_size=256, max_position_embeddings=1024)
    peaks = {
        way: probe(PeakRequest(str(folder), way, 1024, "reader", "default", "cpu")) for way in ("bare", "prompted")
    }
    assert peaks["prompted"]["added"] > peaks["bare"]["added"] + 2**20, "1024 tokens take more than ten"
    with pytest.raises(RuntimeError, match="measuring bare at 64 tokens ended with"):
        probe(PeakRequest(str(tmp_path / "nowhere"), "bare", 64, "reader", "default", "cpu"))


@pytest.fixture(scope="module")
def table5_run(source: Path) -> tuple[Path, dict[str, Any]]:
    """The folder of table 5, where three layers count as converged, and its JSON values."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table5, "converged", lambda shares: tuple(sorted(sorted(shares, key=shares.__getitem__)[:3])))
        return source / "fifth", run_table(source, "table5", source / "fifth")["table5"]


def test_table5_uses_the_layers_of_the_search(table5_run: tuple[Path, dict[str, Any]]) -> None:
    search, conv = (table5_run[1]["cells"][n]["result"] for n in (2, 4))
    shares = table5.last_shares(search["log"])
    assert set(shares) == set(range(10))
    assert conv["layers"] == sorted(sorted(shares, key=shares.__getitem__)[:3])
    rows = rows_of(table5_run[1]["sheets"][0])
    assert [(row["layers"], row["encoders"]) for row in rows] == [("memit", "6"), ("conv", "3"), ("all", "10")]
    each = [cell["result"]["cost"]["parameters"] for cell in table5_run[1]["cells"][3:]]
    assert each[0] / 6 == each[1] / 3 == each[2] / 10


@pytest.mark.parametrize(("threshold", "encoders"), [(0.0, "0"), (9.9, "10")])
def test_table5_where_no_layer_converged_or_every_one(
    threshold: float,
    encoders: str,
    source: Path,
    table5_run: tuple[Path, dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(table5, "CONVERGED", threshold)
    calls = record_fits(monkeypatch, augment)
    values = run_table(source, "table5", table5_run[0])["table5"]
    assert not calls, "neither needs another run"
    rows = rows_of(values["sheets"][0])
    assert rows[1]["encoders"] == encoders
    assert rows[1]["NLL"] == ("–" if encoders == "0" else rows[2]["NLL"])


def test_figure3_draws_the_logs(source: Path, tmp_path: Path) -> None:
    values = run_table(source, "figure3", tmp_path)["figure3"]
    for cell, curve in zip(values["cells"], values["panels"][0]["curves"], strict=True):
        logged = [[line["step"], line["eval_loss"]] for line in cell["result"]["log"] if "eval_loss" in line]
        assert curve["points"] == logged and logged
    assert (tmp_path / "figure3.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "figure3.svg").stat().st_size > 2000


def test_figure4_has_independent_differences_whatever_the_preset(source: Path) -> None:
    configs = [figure4.configuration(make_lab(source, preset=preset), "own") for preset in ("default", "attention")]
    assert configs[0] == configs[1] and configs[0].difference == "independent"


def test_figure4_lists_every_layer_under_both_anchors(source: Path, tmp_path: Path) -> None:
    values = run_table(source, "figure4", tmp_path)["figure4"]
    assert [cell["settings"]["diekae"]["anchor"] for cell in values["cells"]] == ["own", "shared"]
    assert all(cell["settings"]["diekae"]["difference"] == "independent" for cell in values["cells"])
    rows = rows_of(values["sheets"][0])
    assert [row["layer"] for row in rows] == [str(n) for n in range(10)]
    for cell in values["cells"]:
        log, variances = cell["result"]["log"], cell["result"]["variances"]
        # The loss is the sum over layers of the unexplained share times the variance.
        last = next(line for line in reversed(log) if "eval_loss" in line)
        left = [last[f"eval_unexplained/layer_{n}"] * variances[str(n)] for n in range(10)]
        assert sum(left) == pytest.approx(last["eval_loss"], rel=1e-2)
        assert all(cell["result"]["squares"][n] > variance > 0 for n, variance in variances.items())
    assert (tmp_path / "figure4.png").stat().st_size > 2000


def test_the_papers_perplexity_is_two_to_the_mean_of_means() -> None:
    # Batches of two: means (1 + 3) / (1 + 1) = 2 and 4 / 4 = 1; 2^1.5.
    assert paper_perplexity([1.0, 3.0, 4.0], [1, 1, 4], 2) == pytest.approx(2**1.5)
    with pytest.raises(ValueError, match="got 0 sums, 0 token counts and batch_size=2"):
        paper_perplexity([], [], 2)
