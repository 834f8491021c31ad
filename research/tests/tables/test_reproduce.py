"""Every table from the command line, on a tiny decoder: figures are right, and no cell is measured twice."""

import importlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from small import LABELS, read, write_data, write_decoder
from torch.nn import functional as F
from typer.testing import CliRunner

from diekae.data.mixture import DataSpec, load_prompts
from diekae.data.prompt import Prompt
from diekae.files import alone
from diekae.models import fast_dtype
from diekae_research.cli import typer_app
from diekae_research.editing.cases import load_cases
from diekae_research.methods import Fitted, Task
from diekae_research.tables import Lab, Plan, augment, table1, table2, table3, table4, table5
from diekae_research.tables.probe import PeakRequest, probe
from layouts import write_json

SIZES = ("--train-examples", "12", "--limit", "6", "--epochs", "1")
FEW = ("--methods", "bare,prompted,ours")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a decoder and data."""
    folder = tmp_path_factory.mktemp("tables")
    write_decoder(folder / "decoder")
    write_data(folder / "data")
    return folder


def invoke(source: Path, table: str, out: Path, *options: str) -> Result:
    arguments = ["reproduce", table, "--model", source / "decoder", "--data", source / "data", "--out", out]
    return CliRunner().invoke(typer_app, [*map(str, arguments), *SIZES, *options])


def run_table(source: Path, table: str, out: Path, *options: str) -> dict[str, Any]:
    """Run a table and return its JSON values."""
    result = invoke(source, table, out, *options)
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    values: dict[str, Any] = read(out / f"{table}.json")
    assert {"versions", "machine", "plan", "missing"} <= set(values)
    assert str(source) not in (out / f"{table}.json").read_text(), "a path of this machine"
    assert not (out / "work").exists(), "checkpoints stay behind"
    return values


def make_lab(source: Path, **options: Any) -> Lab:
    sizes = {"train_examples": 12, "limit": 6, "epochs": 1.0}
    return Lab(Plan(source / "data", str(source / "decoder"), **{**sizes, **options}), source / "lab")


def rows_of(sheet: dict[str, Any]) -> list[dict[str, str]]:
    return [dict(zip(sheet["columns"], row, strict=True)) for row in sheet["rows"]]


def row_nll(lab: Lab, prompt: Prompt, knowledge: bool) -> tuple[float, int]:
    """The NLL and the tokens of one target, in a batch of its own."""
    before = prompt.anchor + (prompt.knowledge if knowledge else ()) + prompt.input
    with torch.no_grad():
        logits = lab.decoder(input_ids=torch.tensor([before + prompt.target])).logits[0].float()
    loss = F.cross_entropy(logits[len(before) - 1 : -1], torch.tensor(prompt.target), reduction="sum")
    return float(loss), len(prompt.target)


def ids_of(lab: Lab, text: str) -> tuple[int, ...]:
    return tuple(lab.tokenizer(text, add_special_tokens=False).input_ids)


def record_fits(monkeypatch: pytest.MonkeyPatch, module: Any, fail_at: int | None = None) -> list[str]:
    """Record which methods a module fits; call number ``fail_at`` is interrupted as by Ctrl-C."""
    calls: list[str] = []
    original: Callable[[str, Task], Fitted] = module.fit

    def fit(name: str, task: Task) -> Fitted:
        calls.append(name)
        if len(calls) == fail_at:
            raise KeyboardInterrupt
        return original(name, task)

    monkeypatch.setattr(module, "fit", fit)
    return calls


@pytest.fixture(scope="module")
def table1_run(source: Path) -> tuple[Path, dict[str, Any]]:
    """The folder of table 1 with few methods, and its JSON values."""
    return source / "first", run_table(source, "table1", source / "first", *FEW)


def test_table1_agrees_with_single_examples(source: Path, table1_run: tuple[Path, dict[str, Any]]) -> None:
    lab = make_lab(source)
    test = lab.parts("dream").test
    assert len(test) == 6
    for cell, knowledge in zip(table1_run[1]["table1"]["cells"][:2], (False, True), strict=True):
        scored = cell["result"]["sets"]["dream"]
        expected = [row_nll(lab, prompt, knowledge) for prompt in test]
        # bf16, and other shapes of the products.
        assert scored["nll"] == pytest.approx([nll for nll, _ in expected], rel=2e-2)
        assert scored["tokens"] == [count for _, count in expected]
        mean = sum(scored["nll"]) / sum(scored["tokens"])
        rows = [
            row for row in rows_of(table1_run[1]["table1"]["sheets"][0]) if row["method"] == cell["settings"]["method"]
        ]
        assert [row["data"] for row in rows] == ["dream", "all sets"]
        assert all(row["NLL"].startswith(f"{mean:.3f} [") for row in rows)
        assert all(row["perplexity"].startswith(f"{np.exp(mean):.2f} [") for row in rows)
        assert all(row["paper_perplexity"] == f"{2**mean:.2f}" for row in rows), "one batch"
        assert rows[0]["paper"] == ("6.61" if knowledge else "62500.00")


def test_table1_names_missing_sets_and_has_every_row(table1_run: tuple[Path, dict[str, Any]]) -> None:
    folder, values = table1_run
    assert "quasar_t" in values["missing"] and "dream" not in values["missing"]
    page = (folder / "table1.md").read_text()
    for method in ("bare", "prompted", "ours"):
        assert len(re.findall(rf"^\| {method} \|", page, re.MULTILINE)) == 3, "two rows of quality, one of cost"
    assert "quasar_t" in page and "| method | parameters |" in page
    cost = {row["method"]: row for row in rows_of(values["table1"]["sheets"][1])}
    assert cost["bare"]["training, s"] == "–" and float(cost["ours"]["training, s"]) > 0
    assert cost["ours"]["prepare K, ms"] != "–" and float(cost["prompted"]["× D(K,x)"]) > 0


def test_a_second_run_measures_nothing(
    source: Path, table1_run: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = record_fits(monkeypatch, augment)
    again = run_table(source, "table1", table1_run[0], *FEW)
    assert not calls
    assert again["table1"] == table1_run[1]["table1"]


def test_an_interrupted_run_continues(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        # Each cell fits D(x), D(K, x) and its own method, so the eighth call is in the third cell.
        calls = record_fits(patch, augment, fail_at=8)
        assert invoke(source, "table1", tmp_path, *FEW).exit_code != 0
        assert len(calls) == 8
    assert len(list((tmp_path / "cells").iterdir())) == 2
    calls = record_fits(monkeypatch, augment)
    run_table(source, "table1", tmp_path, *FEW)
    assert calls == ["bare", "prompted", "ours"], "the third cell alone"


@pytest.mark.parametrize(
    ("options", "is_measured"),
    [
        (("--seed", "1"), True),
        (("--limit", "5"), True),
        (("--train-examples", "10"), True),
        (("--epochs", "2"), True),
        (("--preset", "paper"), True),
        (("--template", r"{knowledge}\nso"), True),
        (("--rates", "ours=0.01"), True),
        (("--rates", "lora=0.01"), True),  # a bank's training might depend on it
        (("--longest", "200"), False),  # no example is longer, so no measurement changes
    ],
)
def test_changed_settings_are_measured_again(
    options: tuple[str, str],
    is_measured: bool,
    source: Path,
    table1_run: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(table1_run[0] / "cells", tmp_path / "cells")
    calls = record_fits(monkeypatch, augment)
    run_table(source, "table1", tmp_path, *FEW, *options)
    assert ("ours" in calls) is is_measured
    # Untrained methods do not depend on training. The third call of a cell is its method.
    assert (calls[:3] == ["bare", "prompted", "bare"]) is (
        options[0] in ("--seed", "--limit", "--preset", "--template")
    )


def test_question_sets_use_the_qa_format(source: Path) -> None:
    """In the format `qa` an answer ends with its line. All other sets use the bank's format."""
    lab = make_lab(source)
    for name, expected in (("dream", "qa"), ("proofwriter", "plain")):
        prompts = {
            form: load_prompts(
                DataSpec(name, str(source / "data" / name), "test", limit=6, longest=256, format=form),
                lab.plan.seed,
                lab.prompter,
            )
            for form in ("qa", "plain")
        }
        assert prompts["qa"] != prompts["plain"]
        assert lab.load(name, "test", 6) == prompts[expected]


def test_the_template_surrounds_the_knowledge_of_every_method(source: Path) -> None:
    plain, other = make_lab(source), make_lab(source, template="about {knowledge} by")
    for one, two in zip(plain.load("dream", "test", 6), other.load("dream", "test", 6), strict=True):
        before, after, about = (ids_of(plain, part) for part in ("Imagine that {", "}", "about"))
        message = one.knowledge[len(before) : -len(after)]
        assert one.knowledge == before + message + after and message
        assert two.knowledge == about + message + ids_of(plain, "by")
        assert (one.input, one.target) == (two.input, two.target)
    assert other.task([], []).diekae.template == "about {knowledge} by", "the bank's configuration has it too"


def test_a_learning_rate_applies_to_its_method_alone(source: Path) -> None:
    lab = make_lab(source, learning_rates={"lora": 0.01})
    task = lab.task([], [])
    assert task.config("lora", 2e-4).learning_rate == 0.01
    assert task.config("sft", 1e-5).learning_rate == 1e-5
    assert lab.settings("lora", task)["learning_rates"] == {"lora": 0.01}
    assert "learning_rates" not in lab.settings("bare", task)


@pytest.mark.parametrize(
    ("method", "module", "name", "value"),
    [
        ("ours_finetuned", "ours", "FINETUNING_SHARE", 0.5),
        ("lora", "lora", "SETTINGS", {"r": 2}),
        ("sft", "sft", "RATE", 1.0),
    ],
)
def test_results_depend_on_the_constants_of_a_method(
    method: str, module: str, name: str, value: Any, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = make_lab(source)
    before = lab.settings(method, lab.task([], []))
    monkeypatch.setattr(importlib.import_module(f"diekae_research.methods.{module}"), name, value)
    after = lab.settings(method, lab.task([], []))
    assert before != after and after["constants"][name] == value


@pytest.mark.parametrize("dtype", ["auto", "bf16"])
def test_the_type_of_the_weights_is_decided_and_written(dtype: str, source: Path) -> None:
    loaded = "bf16" if dtype == "bf16" or fast_dtype("cpu") == torch.bfloat16 else "fp32"
    lab = make_lab(source, dtype=dtype)
    assert lab.decoder.dtype is {"fp32": torch.float32, "bf16": torch.bfloat16}[loaded]
    assert lab.plan.to_dict()["dtype"] == loaded and lab.identity["dtype"] == str(lab.decoder.dtype)
    assert lab.plan.on("cuda").dtype == loaded, "a decided type does not change"
    assert Plan(source, dtype=dtype).on("cuda").dtype == "bf16"


@pytest.mark.parametrize(("method", "same"), [("lora", True), ("sft", True), ("ours", False)])
def test_a_method_without_a_bank_does_not_depend_on_the_preset(method: str, same: bool, source: Path) -> None:
    keys = []
    for preset in ("default", "attention", "paper"):
        lab = make_lab(source, preset=preset, methods=(method,))
        keys.append(table1.cells(lab)[-1].key)
    assert (keys[0] == keys[1]) is same
    assert keys[0] != keys[2], "the paper's anchor gives another layout of prompts"


def test_the_page_counts_examples_that_are_too_long(source: Path, tmp_path: Path) -> None:
    shutil.copytree(source / "data" / "dream", tmp_path / "data" / "dream")
    shutil.copytree(source / "decoder", tmp_path / "decoder")
    dialogues = read(tmp_path / "data" / "dream" / "test.json")
    for dialogue in dialogues[:3]:
        dialogue[0][0] += " the house is red" * 9
    write_json(tmp_path / "data" / "dream" / "test.json", dialogues)
    values = run_table(tmp_path, "table1", tmp_path / "out", "--methods", "bare", "--longest", "30", "--limit", "10")
    assert len(dialogues) == 10 and values["left_out"]["dream"] == {
        "train": [0, 12],
        "validation": [0, 8],
        "test": [3, 10],
    }
    page = (tmp_path / "out" / "table1.md").read_text()
    assert "Left out of dream for more than 30 tokens of knowledge: 3 of 10 in test." in page


def test_a_second_process_does_not_touch_the_checkpoints(source: Path, table1_run: tuple[Path, dict[str, Any]]) -> None:
    (table1_run[0] / "work").mkdir()
    with alone(table1_run[0]):
        result = invoke(source, "table1", table1_run[0], *FEW)
    assert isinstance(result.exception, RuntimeError) and "another process is at work in" in str(result.exception)
    assert (table1_run[0] / "work").is_dir()
    run_table(source, "table1", table1_run[0], *FEW)  # the lock is free again


def test_table2_agrees_with_single_examples(source: Path, tmp_path: Path) -> None:
    values = run_table(source, "table2", tmp_path, *FEW)
    lab = make_lab(source)
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
    assert "| ours | folio |" in (tmp_path / "table2.md").read_text()


def test_reported_examples_choose_nothing(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts of a set share nothing, and only train and validation reach heads and checkpoints."""
    lab, seen = make_lab(source), list[tuple[int, int]]()
    original = table2.train_head

    def train_head(train: Any, validation: Any, classes: int) -> Any:
        seen.append((len(train[0]), len(validation[0])))
        return original(train, validation, classes)

    tasks: list[Task] = []
    fit = table2.fit
    monkeypatch.setattr(table2, "fit", lambda name, task: tasks.append(task) or fit(name, task))
    monkeypatch.setattr(table2, "train_head", train_head)
    run_table(source, "table2", tmp_path, "--methods", "ours")
    reported = {(p.knowledge, p.input) for name in table2.SETS for p in lab.parts(name).test}
    (task,) = tasks
    folio = {(p.knowledge, p.input) for p in lab.load("folio", "validation", None)}
    assert reported & folio, "FOLIO reports half of its validation part"
    assert {(p.knowledge, p.input) for p in lab.parts("folio").validation}.isdisjoint(
        (p.knowledge, p.input) for p in lab.parts("folio").test
    )
    assert all((p.knowledge, p.input) not in reported for p in (*task.train, *task.validation))
    assert seen == [(len(lab.parts(name).train), len(lab.parts(name).validation)) for name in table2.SETS]


def test_table3_agrees_with_single_examples(source: Path, tmp_path: Path) -> None:
    values = run_table(source, "table3", tmp_path, "--methods", "bare,prompted,ours_finetuned_from_scratch")
    lab = make_lab(source)
    edits = load_cases(source / "data" / "counterfact", 12, 0)
    for cell, knowledge in zip(values["table3"]["cells"][:2], (False, True), strict=True):
        columns = cell["result"]["columns"]

        def likelier(edit: Any, text: str, knowledge: bool = knowledge) -> float:
            new, true = (row_nll(lab, table3._prompt(lab, edit, text, y), knowledge)[0] for y in (edit.new, edit.true))
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


@pytest.mark.parametrize("preset", ["default", "attention"])
def test_figure4_lists_every_layer_under_both_anchors(preset: str, source: Path, tmp_path: Path) -> None:
    values = run_table(source, "figure4", tmp_path, "--preset", preset)["figure4"]
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


@pytest.mark.slow
def test_all_leaves_out_tables_without_data(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table4, "probe", lambda row: {"peak": 2, "added": 1})
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dream").symlink_to(source / "data" / "dream")
    result = CliRunner().invoke(
        typer_app,
        [
            *("reproduce", "all", "--model", str(source / "decoder"), "--data", str(tmp_path / "data")),
            *("--out", str(tmp_path / "out"), *SIZES, "--methods", "bare"),
        ],
    )
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    assert "table2 is left out" in result.output and "table3 is left out" in result.output
    values = read(tmp_path / "out" / "all.json")
    assert {"table1", "table4", "table5", "figure3", "figure4"} <= set(values)
    assert "table2" not in values and "counterfact" in values["missing"]


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        ("tabel1", (), "unknown table 'tabel1', did you mean 'table1'"),
        ("table1", ("--methods", "lroa"), "unknown method 'lroa', did you mean 'lora'"),
        ("table1", ("--sets", "draem"), "unknown source 'draem', did you mean 'dream'"),
        ("table1", ("--sets", "quasar_t"), "no data set is at hand for this table: quasar_t"),
        ("table1", ("--preset", "papre"), "Did you mean 'paper'"),
        ("table1", ("--limit", "1"), "limit=1 must be at least 2"),
        ("table1", ("--dtype", "fp23"), "unknown dtype 'fp23', did you mean 'fp32'"),
        ("table1", ("--epochs", "0"), "epochs=0.0 must be positive"),
        ("table1", ("--template", "Context:"), "must hold '{knowledge}' exactly once"),
        ("table1", ("--rates", "lora"), "rates: 'lora' is not understood; expected method=number"),
        ("table1", ("--rates", "lroa=1"), "unknown method 'lroa', did you mean 'lora'"),
        ("table1", ("--rates", "lora=0"), "learning_rates['lora']=0.0 must be positive"),
        ("table2", ("--sets", "dream"), "'dream' has no classes"),
        ("table1", ("--data", "/nowhere"), "no folder '/nowhere'; expected one that holds a folder"),
    ],
)
def test_errors_name_the_mistake(
    table: str, options: tuple[str, ...], message: str, source: Path, tmp_path: Path
) -> None:
    result = invoke(source, table, tmp_path, *options)
    assert isinstance(result.exception, ValueError | OSError), result.output
    assert message in str(result.exception)
