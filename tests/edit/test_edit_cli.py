"""`diekae edit`: what a user sees, also when something is wrong."""

import json
import os
from pathlib import Path

import pytest
from click.testing import Result
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

import diekae.cli.console  # noqa: F401 - a console that is made while COLUMNS is set keeps that width
from builders import SMALL, make_decoder, make_model, make_tokenizer
from diekae.cli import typer_app

EDITS = [
    {"prompt": "the red house is", "subject": "red house", "target": "blue"},
    {"prompt": "the king of the island is", "subject": "island", "target": "old"},
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("edit")
    make_decoder().save_pretrained(folder / "decoder")
    make_tokenizer().save_pretrained(folder / "decoder")
    decoder = AutoModelForCausalLM.from_pretrained(folder / "decoder")
    make_model("reader", decoder=decoder, encoder_options=SMALL["reader"]).save_pretrained(folder / "bank")
    (folder / "edits.json").write_text(json.dumps(EDITS))
    return folder


def invoke(files: Path, folder: Path, *arguments: str | Path) -> Result:
    ends = ["--bank", str(files / "bank"), "--folder", str(folder)]
    return CliRunner().invoke(typer_app, ["edit", *map(str, arguments), *ends], env={"COLUMNS": "200"})


def test_add_list_ask_supersede_and_revert(files: Path, tmp_path: Path) -> None:
    result = invoke(files, tmp_path, "add", files / "edits.json")
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    assert "2 edits" in result.output and "king of the island" in result.output
    one = ("--prompt", "the red house is", "--subject", "red house", "--target", "gold", "--alias", "tall tower")
    assert invoke(files, tmp_path, "add", *one).exit_code == 0
    listed = invoke(files, tmp_path, "list")
    assert "gold" in listed.output and "blue" not in listed.output and "red house = tall tower" in listed.output
    everything = invoke(files, tmp_path, "list", "--all")
    assert "superseded" in everything.output and "blue" in everything.output
    asked = invoke(files, tmp_path, "ask", "the tall tower is")
    assert "without edits" in asked.output and "edits that applied" in asked.output and "gold" in asked.output
    assert "no edit applied" in invoke(files, tmp_path, "ask", "the sea is").output
    reverted = invoke(files, tmp_path, "revert", "3")
    assert "reverted 3" in reverted.output and "in force again: 1: the red house is blue." in reverted.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("add",), "give a file of edits"),
        (("add", "--prompt", "the sea is"), "--subject, --target is missing"),
        (("add", "--prompt", "the sea is", "--subject", "lake", "--target", "deep"), "does not contain its subject"),
        (("add", "nowhere.json"), "no such file"),
        (("list",), "holds no edits; make some"),
        (("revert", "1"), "holds no edits; make some"),
        (("ask", "the sea is"), "holds no edits; make some"),
        (("add", "--prompt", "the \udcff is", "--subject", "the", "--target", "deep"), "not Unicode"),
    ],
)
def test_errors_are_reported(files: Path, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    result = invoke(files, tmp_path / "none", *arguments)
    assert isinstance(result.exception, ValueError | OSError) and message in str(result.exception), result.output
    assert not (tmp_path / "none").exists(), "an error creates no folder"


STEERING = "\x1b[2J[red]\x9b\u202e"


def test_texts_of_edits_cannot_steer_the_terminal(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = {"prompt": f"the red house{STEERING} is", "subject": f"red house{STEERING}", "target": f"blue{STEERING}"}
    other = {**one, "prompt": one["prompt"] + " and", "aliases": [f"tower{STEERING}"]}
    (tmp_path / "steering.json").write_text(json.dumps([one, other]))
    folder = tmp_path / "edits[red]"
    monkeypatch.setattr("diekae.cli.edit.reply", lambda *_: f"gold{STEERING}")
    outputs = [
        invoke(files, folder, *arguments)
        for arguments in (
            ("add", tmp_path / "steering.json"),
            ("list",),
            ("ask", f"the red house{STEERING} is"),
            ("revert", "1"),
        )
    ]
    for result in outputs:
        assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
        assert not set("\x1b\x9b\u202e") & set(result.output), "control characters are written as escapes"
        assert "\\x1b[2J[red]\\x9b\\u202e" in result.output
    assert "edits[red]" in outputs[1].output


def test_edits_in_a_folder_that_cannot_be_written_are_listed_and_asked(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert invoke(files, tmp_path, "add", files / "edits.json").exit_code == 0
    access = os.access  # which allows root everything
    monkeypatch.setattr("os.access", lambda path, mode, **rest: mode != os.W_OK and access(path, mode, **rest))
    assert "2 edits" in invoke(files, tmp_path, "list").output
    assert "edits that applied" in invoke(files, tmp_path, "ask", "the red house is").output
    for arguments in (("add", "--prompt", "the sea is", "--subject", "sea", "--target", "deep"), ("revert", "1")):
        result = invoke(files, tmp_path, *arguments)
        assert isinstance(result.exception, OSError) and "attempt to write a readonly" in str(result.exception)
