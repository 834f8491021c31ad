"""Paths at which there can be nothing: every public call that takes a path refuses them in a sentence."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from builders import make_model
from cli_runs import error_of
from diekae import DiekaeModel, KnowledgeStore, PreparedKnowledge, edit_model, load_decoder, load_edits
from diekae.data.example import Example, read_examples, write_examples
from diekae.data.sources import load_source
from diekae.edit.edit import read_edits
from diekae.edit.trained_parts import load_trained
from diekae.provenance import write_json
from diekae.recipe import read_recipe
from diekae.serve.access import Keys

FACT = {"prompt": "the red house is", "subject": "red house", "target": "blue"}
EXAMPLE = Example(("the house is red",), "what is red", "the house")


@dataclass
class Setup:
    """What the calls need."""

    model: DiekaeModel
    store: KnowledgeStore
    prepared: PreparedKnowledge


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    model = make_model("reader")
    return Setup(model, KnowledgeStore(tmp_path_factory.mktemp("store"), model), model.prepare("the castle is red"))


Call = Callable[[Setup, Path], Any]
READING: dict[str, Call] = {
    "store.add": lambda given, path: given.store.add(path),
    "PreparedKnowledge.load": lambda _given, path: PreparedKnowledge.load(path),
    "from_pretrained": lambda given, path: DiekaeModel.from_pretrained(path, given.model.decoder),
    "load_decoder": lambda _given, path: load_decoder(str(path)),
    "load_edits": lambda given, path: load_edits(given.model, path),
    "load_trained": lambda given, path: load_trained(path, given.model),
    "read_edits": lambda _given, path: read_edits(path),
    "read_recipe": lambda _given, path: read_recipe(path),
    "read_examples": lambda _given, path: read_examples(path),
    "load_source": lambda _given, path: load_source("jsonl", folder=path, split="train"),
    "Keys.read": lambda _given, path: Keys.read(path),
}
WRITING: dict[str, Call] = {
    "KnowledgeStore": lambda _given, path: KnowledgeStore(path),
    "prepared.save": lambda given, path: given.prepared.save(path),
    "save_pretrained": lambda given, path: given.model.save_pretrained(path),
    "edit_model": lambda given, path: edit_model(given.model, [FACT], folder=path),
    "write_examples": lambda _given, path: write_examples(path, [EXAMPLE]),
    "write_json": lambda _given, path: write_json(path, {}),
}
VERBS = {
    "ask --knowledge": ("ask", "what", "--knowledge"),
    "ask --store": ("ask", "what", "--store"),
    "knowledge list": ("knowledge", "list", "--store"),
    "knowledge add": ("knowledge", "add", "--text", "the sea", "--store"),
    "edit list": ("edit", "list", "--folder"),
    "train": ("train",),
    "evaluate": ("evaluate", "--data"),
}


def impossible(folder: Path) -> dict[str, Path]:
    """Return paths at which there can be nothing."""
    (folder / "round").symlink_to(folder / "round")
    (folder / "file").write_text("the castle is red")
    return {
        "NUL": folder / "a\x00b",
        "half of a character": folder / "a\ud800b",
        "a long name": folder / ("a" * 300),
        "a long path": folder / "/".join(["a" * 200] * 30),
        "a link to itself": folder / "round",
        "through a link to itself": folder / "round" / "a",
        "through a file": folder / "file" / "a",
    }


def test_an_empty_path_is_not_the_current_folder(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    monkeypatch.chdir(tmp_path)
    calls: list[Callable[[], object]] = [
        lambda: KnowledgeStore(""),
        lambda: DiekaeModel.from_pretrained(""),
        lambda: setup.model.save_pretrained(""),
        lambda: setup.prepared.save(""),
        lambda: load_edits(setup.model, ""),
        lambda: edit_model(setup.model, [FACT], folder=""),
        lambda: read_recipe(""),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="the path is empty"):
            call()
    record_property("tries", len(calls) + 1)
    with pytest.raises(IsADirectoryError, match="is a folder, where a file is to be written"):
        setup.prepared.save(".")
    assert not os.listdir()


def check_sentence(error: BaseException, path: Path) -> None:
    """Check that an error was not raised by the system, and names the path."""
    assert isinstance(error, ValueError | OSError) and getattr(error, "strerror", None) is None, repr(error)
    assert repr(str(path)[:40])[:-1] in str(error) or str(path)[:40] in str(error), str(error)
    assert len(str(error)) > len(str(path)[:100]) + 20


@pytest.mark.parametrize("name", [*READING, *WRITING])
def test_a_path_at_which_nothing_can_be_is_refused_in_a_sentence(
    name: str, setup: Setup, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    record_property("tries", 7)
    for kind, path in impossible(tmp_path).items():
        try:
            {**READING, **WRITING}[name](setup, path)
        except Exception as error:
            check_sentence(error, path if kind != "through a file" else path.parent)
        else:
            raise AssertionError(f"{kind} was accepted")
    assert sorted(os.listdir(tmp_path)) == ["file", "round"], "nothing was made"


@pytest.mark.parametrize("verb", VERBS)
def test_the_command_line_refuses_it_in_a_line(
    verb: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    record_property("tries", 5)
    for kind, path in impossible(tmp_path).items():
        if kind not in ("NUL", "half of a character"):  # no program can be called with these
            assert str(path)[:40] in error_of(*VERBS[verb], path).replace("\n", ""), kind
