"""The command line, end to end on a tiny decoder, and what it says when something is wrong."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from builders import make_decoder, make_tokenizer
from typer.testing import CliRunner

from diekae.cli import typer_app
from diekae.data import Example, write_examples

RUNNER = CliRunner()
EXAMPLES = [
    Example((f"the {colour} castle was built in {number}",), f"when was the {colour} castle built", number)
    for colour in ("red", "green", "blue", "gold", "silver", "cold")
    for number in ("one", "two", "three", "four")
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny decoder, data, a recipe, and what training by it leaves."""
    folder = tmp_path_factory.mktemp("home")
    make_decoder().save_pretrained(folder / "decoder")
    make_tokenizer().save_pretrained(folder / "decoder")
    for split in ("train", "validation", "test"):
        write_examples(folder / "data" / f"{split}.jsonl", EXAMPLES)
    tables = "\n".join(
        f'[[data.{part}]]\nsource = "jsonl"\nfolder = "data"' for part in ("train", "validation", "test")
    )
    (folder / "tiny.toml").write_text(
        f'decoder = "{folder / "decoder"}"\ndtype = "float32"\nfolder = "{folder}"\n[diekae]\nlayers = [1, 3]\n'
        f'[training]\nepochs = 2\nevaluations = 2\ncalibration = 8\ncache = "{folder / "cache"}"\n{tables}\n'
    )
    result = run("train", folder / "tiny.toml", "--out", folder / "run", "--set", "diekae.layers=[0, 2]")
    assert result.exit_code == 0, result.output
    return folder


def run(*words: Any) -> Any:
    return RUNNER.invoke(typer_app, [str(word) for word in words])


def failure(*words: Any) -> str:
    """The message of an exception, which `app` turns into one paragraph."""
    result = run(*words)
    assert result.exit_code != 0, result.output
    return str(result.exception) if result.exception and not isinstance(result.exception, SystemExit) else result.output


def strict(path: Path) -> Any:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def test_training_leaves_bank_figures_and_report(home: Path) -> None:
    result = strict(home / "run" / "result.json")
    assert result["layers"] == [0, 2], "--set changed the recipe"
    assert result["recipe"]["training"]["seed"] == 0
    assert result["versions"]["torch"] and result["machine"]["cores"]
    assert result["sets"]["jsonl"]["n"] == len(EXAMPLES)
    assert str(home) not in json.dumps(result["recipe"]["data"]), "no path of this machine"
    page = (home / "run" / "report.html").read_text()
    assert "<svg" in page and "recovered" in page
    assert not re.search(r'(src|href)\s*=\s*"http', page), "self-contained"
    names = {path.name for path in (home / "run" / "bank").iterdir()}
    assert "config.json" in names and len(names) == 2


def test_evaluate_and_ask_use_the_bank(home: Path, tmp_path: Path) -> None:
    bank, data = home / "run" / "bank", home / "data" / "test.jsonl"
    out = run(
        "evaluate", "--bank", bank, "--data", data, "--limit", 6, "--scope", "prompt", "--json", tmp_path / "f.json"
    )
    assert out.exit_code == 0, out.output
    found = strict(tmp_path / "f.json")
    assert found["scope"] == "prompt" and found["sets"]["test.jsonl"]["n"] == 6
    assert set(found["sets"]["test.jsonl"]["seconds"]) >= {"bare", "prompted", "ours"}
    (tmp_path / "k.txt").write_text("the red castle was built in two")
    asked = run("ask", "--bank", bank, "--knowledge", tmp_path / "k.txt", "when was the red castle built")
    assert asked.exit_code == 0, asked.output
    assert "without knowledge" in asked.output and "with knowledge" in asked.output


def test_wrong_input_is_named(home: Path, tmp_path: Path) -> None:
    bank, data = home / "run" / "bank", home / "data" / "test.jsonl"
    bad = tmp_path / "bad.jsonl"
    bad.write_text(data.read_text().splitlines()[0] + '\n{"knowledge": 3}\n')
    assert "line 2" in failure("evaluate", "--bank", bank, "--data", bad) or "bad.jsonl:2" in failure(
        "evaluate", "--bank", bank, "--data", bad
    )
    assert "choose one of" in failure("evaluate", "--bank", bank, "--data", data, "--scope", "everything")
    assert "choose one of" in failure("evaluate", "--bank", bank, "--data", data, "--format", "xml")
    assert "is not a bank" in failure("evaluate", "--bank", tmp_path, "--data", data)
    assert "no knowledge file" in failure("ask", "--bank", bank, "--knowledge", tmp_path / "none", "who")
    assert "--resume" in failure("train", home / "tiny.toml", "--out", home / "run")
    assert "no recipe" in failure("train", tmp_path / "none.toml")
    assert "key=value" in failure("train", home / "tiny.toml", "--set", "epochs")
    assert "unknown keys" in failure("train", home / "tiny.toml", "--set", "colour=1")
    assert "not known" in failure("train", home / "tiny.toml", "--set", "diekae.encoder=raeder")


def test_errors_are_one_paragraph_without_a_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "diekae", "train", str(tmp_path / "none.toml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no recipe at" in done.stdout and "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize("verb", ["train", "ask", "evaluate", "demo"])
def test_every_verb_explains_itself(verb: str) -> None:
    out = run(verb, "--help")
    assert out.exit_code == 0 and len(out.output) > 200
    assert verb in run("--help").output
