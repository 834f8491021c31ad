"""Table 1 and all that tables share, from the command line: cells, settings, data and errors."""

import importlib
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import FEW, SIZES, ids_of, invoke, make_lab, record_fits, row_nll, rows_of, run_table
from small import read
from typer.testing import CliRunner

from diekae.data.mixture import DataSpec, load_prompts
from diekae.models import fast_dtype
from diekae_research.cli import typer_app
from diekae_research.tables import Plan, augment, table1, table4
from diekae_research.tables.reproduce import alone
from layouts import write_json


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
    ("changes", "trained", "untrained"),
    [
        ({"seed": 1}, True, True),
        ({"limit": 5}, True, True),
        ({"train_examples": 10}, True, False),
        ({"epochs": 2.0}, True, False),
        ({"preset": "paper"}, True, True),
        ({"template": "{knowledge}\nso"}, True, True),
        ({"learning_rates": {"ours": 0.01}}, True, False),
        ({"learning_rates": {"lora": 0.01}}, True, False),  # a bank's training might depend on it
        ({"longest": 200}, False, False),  # no example is longer, so no measurement changes
    ],
)
def test_changed_settings_are_other_cells(
    changes: dict[str, Any], trained: bool, untrained: bool, source: Path
) -> None:
    """Untrained methods do not depend on training."""
    methods = ("bare", "prompted", "ours")
    before, after = (
        [cell.key for cell in table1.cells(make_lab(source, methods=methods, **options))] for options in ({}, changes)
    )
    assert [a != b for a, b in zip(before, after, strict=True)] == [untrained, untrained, trained]


def test_rates_and_template_reach_the_plan(source: Path, tmp_path: Path) -> None:
    options = ("--methods", "bare", "--rates", "lora=0.01,sft=1e-4", "--template", r"{knowledge}\nso")
    plan = run_table(source, "table1", tmp_path, *options)["plan"]
    assert plan["learning_rates"] == {"lora": 0.01, "sft": 1e-4} and plan["template"] == "{knowledge}\nso"


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
        ("tabel1", (), "Did you mean 'table1'"),
        ("table1", ("--methods", "lroa"), "Did you mean 'lora'"),
        ("table1", ("--sets", "draem"), "Did you mean 'dream'"),
        ("table1", ("--sets", "quasar_t"), "all data sets of this table are missing: quasar_t"),
        ("table1", ("--preset", "papre"), "Did you mean 'paper'"),
        ("table1", ("--limit", "1"), "limit=1 must be at least 2"),
        ("table1", ("--dtype", "fp23"), "Did you mean 'fp32'"),
        ("table1", ("--epochs", "0"), "epochs=0.0 must be positive"),
        ("table1", ("--template", "Context:"), "must hold '{knowledge}' exactly once"),
        ("table1", ("--rates", "lora"), "rates: 'lora' is not understood; expected method=number"),
        ("table1", ("--rates", "lroa=1"), "Did you mean 'lora'"),
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
