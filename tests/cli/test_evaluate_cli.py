"""`diekae evaluate`: its figures, and wrong calls."""

import json
from pathlib import Path

import pytest

from cli_runs import error_of, read_json, succeed


def test_evaluate_measures_a_bank_on_files(trained: tuple[Path, str], workspace: Path, tmp_path: Path) -> None:
    other = tmp_path / "test.jsonl"
    other.write_text((workspace / "data" / "train.jsonl").read_text())
    path = tmp_path / "figures.json"
    data = workspace / "data" / "test.jsonl"
    output = succeed(
        *("evaluate", "--bank", trained[0] / "bank", "--data", data, "--data", other, "--limit", "4"),
        *("--answers", "--json", path),
    )
    figures = read_json(path)
    assert len(figures["sets"]) == 2, "two files of one name"
    assert figures["scope"] == "all" and figures["format"] == "plain" and figures["limit"] == 4
    assert "versions" in figures and "machine" in figures
    answers = figures["sets"]["test.jsonl"]["answers"]
    assert set(answers) == {"bare", "prompted", "ours"}
    assert all(0 <= scores["exact"] <= scores["f1"] <= 1 for scores in answers.values())
    assert "exact match" in output
    run = read_json(trained[0] / "result.json")
    assert figures["sets"]["test.jsonl"]["nll"]["ours"] == pytest.approx(run["sets"]["jsonl"]["nll"]["ours"], rel=1e-4)


def test_a_missing_bank_or_file_raises(trained: tuple[Path, str], workspace: Path) -> None:
    data = workspace / "data" / "test.jsonl"
    assert "is not a bank" in error_of("evaluate", "--bank", workspace / "nowhere", "--data", data)
    assert "no such file" in error_of("evaluate", "--bank", trained[0] / "bank", "--data", workspace / "none.jsonl")


def test_an_incomplete_example_raises_with_its_line(workspace: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"knowledge": "k", "input": "x", "target": "y"}\n{"knowledge": "k", "input": "x"}\n')
    assert f"{bad}:2: no key 'target'" in error_of("evaluate", "--bank", workspace / "nowhere", "--data", bad)


def test_examples_without_knowledge_are_refused(trained: tuple[Path, str], tmp_path: Path) -> None:
    data = tmp_path / "none.jsonl"
    data.write_text(json.dumps({"knowledge": None, "input": "what is", "target": "red"}) + "\n")
    assert "1 of 1 examples have none" in error_of("evaluate", "--bank", trained[0] / "bank", "--data", data)
