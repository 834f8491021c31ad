"""Files that are damaged, foreign or hostile: each verb ends with exit code 0 or 2, and one sentence."""

import gc
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli_runs import run
from foreign_files import contents, damaged, foreign


def check(*arguments: str | Path) -> None:
    """Run a verb on a foreign file."""
    ended = run(*arguments)
    assert ended.code in (0, 2) or "left out" in ended.output, ended.errors
    assert "DIEKAE_DEBUG" not in ended.errors and "Traceback" not in ended.errors, ended.errors
    assert ended.code != 2 or ended.errors.splitlines()[-1].startswith("error "), ended.errors


EXAMPLES = [
    {"knowledge": "the tower is blue", "input": "what is the tower", "target": "blue"},
    {"knowledge": ["the ship is red", "a boat"], "input": "what is the ship", "target": "red", "label": "red"},
    {"knowledge": "the gate is green", "input": "what is the gate", "target": "green", "leaks": False},
]
EDITS = [
    {"prompt": "the tower is", "subject": "the tower", "target": "red"},
    {"requested_rewrite": {"prompt": "{} is", "subject": "the ship", "target_new": {"str": "blue"}}},
    {"prompt": "the gate is", "subject": "the gate", "target_new": "red", "alias": ["gate"]},
]
SUFFIXES = (".txt", ".md", ".html", ".csv", ".json", ".jsonl", ".eml", ".pdf", ".docx", "")


@foreign
@given(content=contents(*EXAMPLES))
def test_examples(content: bytes, trained: tuple[Path, str], tmp_path: Path) -> None:
    path = tmp_path / "examples.jsonl"
    path.write_bytes(content)
    check("evaluate", "--data", path, "--bank", trained[0] / "bank")
    check("layers", "--data", path, "--decoder", trained[0].parent / "decoder", "--choose", "1")


@foreign
@given(content=contents(*EXAMPLES), suffix=st.sampled_from(SUFFIXES))
def test_documents(content: bytes, suffix: str, trained: tuple[Path, str], tmp_path: Path) -> None:
    path = tmp_path / f"document{suffix}"
    path.write_bytes(content)
    check("ask", "--knowledge", path, "--bank", trained[0] / "bank", "--max-new-tokens", "1", "what is the tower")
    check("knowledge", "add", path, "--store", tmp_path / "store", "--bank", trained[0] / "bank")


@foreign
@given(content=contents(*EDITS), suffix=st.sampled_from([".json", ".jsonl", ".csv"]))
def test_edits(content: bytes, suffix: str, trained: tuple[Path, str], tmp_path: Path) -> None:
    path = tmp_path / f"edits{suffix}"
    path.write_bytes(content)
    check("edit", "add", path, "--folder", tmp_path / "edits", "--bank", trained[0] / "bank")


@foreign
@given(content=st.one_of(st.binary(max_size=100), st.just(b""), st.just(b"\x08" + b"\0" * 7 + b'{"a": 1}')))
def test_trained_parts_of_edits(content: bytes, trained: tuple[Path, str], tmp_path: Path) -> None:
    path = tmp_path / "editing.safetensors"
    path.write_bytes(content)
    edit = ("--prompt", "the tower is", "--subject", "the tower", "--target", "red")
    check("edit", "add", *edit, "--folder", tmp_path / "edits", "--bank", trained[0] / "bank", "--trained", path)


def change(path: Path, content: bytes, then: Callable[[], None]) -> None:
    """Change a file for a while."""
    whole = path.read_bytes()
    path.write_bytes(content)
    try:
        then()
    finally:
        path.write_bytes(whole)


@foreign
@given(data=st.data())
def test_banks(data: st.DataObject, trained: tuple[Path, str], workspace: Path, tmp_path: Path) -> None:
    bank = shutil.copytree(trained[0] / "bank", tmp_path / "bank", dirs_exist_ok=True)
    path = data.draw(st.sampled_from(sorted(bank.glob("*.*"))), "file")
    whole = path.read_bytes()
    content = data.draw(contents(json.loads(whole)) if path.suffix == ".json" else damaged(whole), "content")
    knowledge = ("--knowledge", workspace / "fact.txt")
    change(
        path, content, lambda: check("ask", *knowledge, "--bank", bank, "--max-new-tokens", "1", "what is the tower")
    )


@pytest.fixture(scope="module")
def stored(trained: tuple[Path, str], workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store of one document that no process has open."""
    store = tmp_path_factory.mktemp("stored") / "store"
    check("knowledge", "add", workspace / "fact.txt", "--store", store, "--bank", trained[0] / "bank")
    gc.collect()
    return store


@foreign
@given(data=st.data())
def test_stores(data: st.DataObject, stored: Path, trained: tuple[Path, str], tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "store", ignore_errors=True)
    store = shutil.copytree(stored, tmp_path / "store")
    names = sorted(path.relative_to(store) for path in store.rglob("*") if path.suffix in (".sqlite", ".safetensors"))
    path = store / data.draw(st.sampled_from(names), "file")
    path.write_bytes(data.draw(damaged((stored / path.relative_to(store)).read_bytes()), "content"))
    for arguments in (("list",), ("search", "tower"), ("verify", "--repair")):
        check("knowledge", *arguments, "--store", store)
    check("ask", "--store", store, "--bank", trained[0] / "bank", "--max-new-tokens", "1", "what is the tower")


@foreign
@given(data=st.data())
def test_recipes(data: st.DataObject, trained: tuple[Path, str], workspace: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(workspace / "data", tmp_path / "data", dirs_exist_ok=True)
    recipe = tmp_path / "tiny.toml"
    whole = (workspace / "tiny.toml").read_text().replace(f'folder = "{workspace}"', f'folder = "{tmp_path}"')
    recipe.write_text(whole.replace("max_steps = 8", "max_steps = 1"))
    path = data.draw(st.sampled_from([recipe, folder / "train.jsonl", folder / "validation.jsonl"]), "file")
    content = data.draw(damaged(path.read_bytes()) if path == recipe else contents(*EXAMPLES), "content")
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    change(path, content, lambda: check("train", recipe, "--out", tmp_path / "run"))
