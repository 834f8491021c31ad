"""`diekae ask`: what is printed and written, and wrong calls."""

from dataclasses import replace
from pathlib import Path

import pytest

from cli_runs import error_of, invoke, read_json, succeed
from diekae.answering import Answer, Source


def test_ask_prints_an_answer_with_its_confidence(trained: tuple[Path, str], workspace: Path) -> None:
    knowledge = ("--knowledge", workspace / "fact.txt")
    output = succeed("ask", "--bank", trained[0] / "bank", *knowledge, *knowledge, "what [/is] the [bold]tower")
    assert "sure that the documents answer this" in output
    assert "what [/is] the [bold]tower" in output, "brackets are not markup"


def test_brackets_in_answers_are_not_markup(
    trained: tuple[Path, str], workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = Answer(
        "what", "[/INST] [red]blue", False, 0.2, "[bold]none", (Source("1", "[t]", "[h]", "[b]x", 1.0),), 0.1
    )
    monkeypatch.setattr("diekae.cli.ask.ask", lambda *_, **__: answer)
    options = ("ask", "--bank", trained[0] / "bank", "--knowledge", workspace / "fact.txt", "what")
    output = invoke(*options).output
    assert "Not in your documents" in output and "[bold]none" in output and "[t], [h]" in output and "[b]x" in output
    monkeypatch.setattr("diekae.cli.ask.ask", lambda *_, **__: replace(answer, answered=True))
    assert "[/INST] [red]blue" in invoke(*options).output


def test_ask_writes_the_answer_as_json(trained: tuple[Path, str], workspace: Path, tmp_path: Path) -> None:
    (workspace / "docs").mkdir()
    (workspace / "docs" / "tower.md").write_text("# The tower\n\nthe tower is red and old")
    (workspace / "docs" / "ship.md").write_text("# The ship\n\nthe ship is blue")
    options = ("ask", "--bank", trained[0] / "bank", "--knowledge", workspace / "docs", "--json", tmp_path / "a.json")
    succeed(*options, "--threshold", "1", "which ship is blue")
    answer = read_json(tmp_path / "a.json")
    assert answer["question"] == "which ship is blue" and answer["answered"] is False and answer["bare"] is not None
    assert 0 < answer["confidence"] < 1 and answer["seconds"] > 0
    (source,) = answer["sources"]
    assert source["title"] == "ship.md" and source["heading"] == "The ship" and source["share"] is None


def test_ask_lists_its_formats(workspace: Path) -> None:
    text = error_of(
        "ask", "--bank", workspace / "nowhere", "--knowledge", workspace / "fact.txt", "--format", "xml", "what"
    )
    assert "--format 'xml' is not known; choose one of plain, qa, chat" in text


def test_ask_needs_knowledge(workspace: Path) -> None:
    assert "no knowledge at" in error_of("ask", "--knowledge", workspace / "none.txt", "what")
    bank = ("--bank", workspace / "data", "--knowledge", workspace / "fact.txt")
    assert "is not a bank" in error_of("ask", *bank, "what")


def test_ask_refuses_a_file_without_text(trained: tuple[Path, str], workspace: Path) -> None:
    (workspace / "blank.txt").write_text(" \n")
    knowledge = ("--knowledge", workspace / "blank.txt")
    assert "holds no text" in error_of("ask", "--bank", trained[0] / "bank", *knowledge, "what")
