"""The command line of the research package: help, and wrong names."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from diekae_research.cli import VERBS, typer_app


def test_bench_refuses_an_unknown_dtype() -> None:
    result = CliRunner().invoke(typer_app, ["bench", "decode", "--dtype", "int4"])
    message = "--dtype 'int4' is not known; choose one of auto, fp32"
    assert isinstance(result.exception, ValueError) and message in str(result.exception), result.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["bench", "decode", "--json", "/"], "cannot be written"),
        (["bench", "decode", "--seed", "-1"], "greater than"),
        (["bench", "decode", "--lengths", "0"], "greater than"),
        (["curves", "--data", "x", "--batch-size", "0"], "greater than"),
        (["curves", "--data", "x", "--documents", "0"], "greater than"),
        (["answers", "--json", "/dev/null"], "cannot be written"),
        (["documents", "--json", "/"], "cannot be written"),
        (["bench", "speed"], "'speed' is not one of 'inference'"),
        (["edit", "evaluate", "--data", "x", "--out", "y", "--neighbours", "-1"], "greater than"),
        (["edit", "evaluate", "--data", "x", "--out", "y", "--json", "/"], "cannot be written"),
        (["reproduce", "table1", "--data", "x", "--limit", "0"], "greater than"),
        (["reproduce", "table1", "--data", "x", "--epochs", "nan"], "greater than"),
        (["reproduce", "table1", "--data", "x", "--json", "/"], "cannot be written"),
        (["data", "build", "folio", "--out", "x", "--limit", "0"], "greater than"),
    ],
)
def test_numbers_out_of_range_and_unwritable_files_are_refused_at_once(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(typer_app, arguments, terminal_width=200)
    assert result.exit_code == 2 and words in " ".join(result.output.split()), result.output


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[1]", "holds a list"),
        ("{oops", "speed/decode.json: not JSON"),
        ('{"rows": 3}', "has not the form of a result"),
    ],
)
def test_a_stored_result_that_is_none_is_named(content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "speed").mkdir()
    (tmp_path / "speed" / "decode.json").write_text(content)
    result = CliRunner().invoke(typer_app, ["summary", "speed", "--results", str(tmp_path)])
    assert isinstance(result.exception, ValueError) and words in str(result.exception)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{oops", "more.jsonl:2: not JSON"),
        ("3", "more.jsonl:2: expected a JSON object"),
        ('{"knowledge": [3], "input": "x", "target": "y"}', "more.jsonl:2: "),
    ],
)
def test_more_documents_are_checked_before_anything_is_loaded(line: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "more.jsonl"
    path.write_text('{"knowledge": "a\u2028b", "input": "x", "target": "y"}\n' + line)
    result = CliRunner().invoke(typer_app, ["documents", "--decoder", "none", "--more", str(path)])
    assert isinstance(result.exception, ValueError) and words in str(result.exception), result.output


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_a_verb_begins_with_its_summary_and_offers_no_completion(verb: str) -> None:
    result = CliRunner().invoke(typer_app, [verb, "--help"], terminal_width=200)
    words = " ".join(result.output.split())
    assert result.exit_code == 0 and VERBS[verb] in words and "completion" not in words


def test_help_names_every_verb_without_importing_pytorch() -> None:
    script = (
        "import atexit, sys; from diekae_research.cli import app\n"
        "atexit.register(lambda: print(sorted({'torch', 'transformers'} & set(sys.modules))))\n"
        "app()"
    )
    done = subprocess.run([sys.executable, "-c", script, "--help"], capture_output=True, text=True, timeout=60)
    assert all(verb in done.stdout for verb in VERBS) and done.stdout.rstrip().endswith("[]")
