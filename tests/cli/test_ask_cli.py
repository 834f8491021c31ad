"""`diekae ask`: what is printed and written, and wrong calls."""

import re
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from cli_runs import error_of, invoke, read_json, succeed
from diekae import DiekaeModel, KnowledgeStore, load_decoder
from diekae.answering import Answer, Source, ask
from diekae.cli.console import console


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


def test_at_a_terminal_the_answer_is_printed_once_as_it_comes(
    trained: tuple[Path, str], workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answered(_model: object, question: str, *_: object, show: Callable[[str], None] | None, **__: object) -> Answer:
        for piece in ("[red]blue", " sky"):
            assert (show is None) != console.is_terminal
            if show is not None:
                show(piece)
        return Answer(question, "[red]blue sky", True, 0.9, None, (), 0.1)

    monkeypatch.setattr("diekae.cli.ask.ask", answered)
    options = ("ask", "--bank", trained[0] / "bank", "--knowledge", workspace / "fact.txt", "what is")
    outputs = []
    for terminal in (False, True):
        monkeypatch.setattr(console, "_force_terminal", terminal)
        outputs.append(re.sub("\x1b[^a-zA-Z]*[a-zA-Z]", "", succeed(*options)))
    assert all(output.count("[red]blue sky") == output.count("what is") == 1 for output in outputs), outputs
    assert "what is\n[red]blue sky\n90% sure" in outputs[1]


def test_ask_reads_with_any_decoder(workspace: Path, tmp_path: Path) -> None:
    decoder = ("--decoder", workspace / "decoder")
    options = ("--knowledge", workspace / "fact.txt", "--threshold", "0", "--max-new-tokens", "4")
    output = succeed("ask", *decoder, *options, "what is the tower")
    model = DiekaeModel.exact(*load_decoder(str(workspace / "decoder")))
    with closing(KnowledgeStore(tmp_path / "store", model)) as store:
        store.add(workspace / "fact.txt")
        answer = ask(model, "what is the tower", store, threshold=0, max_new_tokens=4)
        assert answer.text in output and "100% of the attention" in output
    # What was prepared for a decoder is found again.
    assert "1 prepared now" in succeed(
        "knowledge", "add", *decoder, "--store", tmp_path / "kept", workspace / "fact.txt"
    )
    assert "0 prepared now" in succeed("knowledge", "add", *decoder, "--store", tmp_path / "kept")
    both = error_of("ask", *decoder, "--bank", "smollm2", "--knowledge", workspace / "fact.txt", "what")
    assert "--decoder and --bank are both given" in both


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


def test_ask_needs_knowledge(workspace: Path) -> None:
    assert "no knowledge at" in error_of("ask", "--knowledge", workspace / "none.txt", "what")
    bank = ("--bank", workspace / "data", "--knowledge", workspace / "fact.txt")
    assert "is not a bank" in error_of("ask", *bank, "what")


def test_ask_refuses_a_file_without_text(trained: tuple[Path, str], workspace: Path) -> None:
    (workspace / "blank.txt").write_text(" \n")
    knowledge = ("--knowledge", workspace / "blank.txt")
    assert "holds no text" in error_of("ask", "--bank", trained[0] / "bank", *knowledge, "what")
