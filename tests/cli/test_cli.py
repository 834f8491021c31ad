"""The command line as a whole: help, version, wrong verbs, errors and progress."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cli_runs import error_of, invoke
from diekae.cli import VERBS
from diekae.cli.console import progress_bars
from diekae.version import __version__


def in_process(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `diekae` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", "from diekae.cli import app; app()", *map(str, arguments)],
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def words_of(output: str) -> str:
    """Return the words of a help page, without its frames and line breaks."""
    return " ".join(re.sub("[│╭╮╰╯─]", " ", output).split())


def test_help_names_every_verb_with_the_summary_that_begins_the_verbs_own_help() -> None:
    overview = words_of(invoke("--help").output)
    for verb, summary in VERBS.items():
        assert f"{verb} {summary}" in overview
        result = invoke(verb, "--help")
        assert result.exit_code == 0 and "Usage" in result.output
        assert summary in words_of(result.output)


def test_help_is_shown_without_importing_pytorch() -> None:
    script = (
        "import atexit, sys; from diekae.cli import app\n"
        "atexit.register(lambda: print(sorted({'torch', 'transformers'} & set(sys.modules))))\n"
        "app()"
    )
    done = subprocess.run([sys.executable, "-c", script, "--help"], capture_output=True, text=True, timeout=60)
    assert "knowledge" in done.stdout and done.stdout.rstrip().endswith("[]")


def test_the_version_is_printed() -> None:
    result = invoke("--version")
    assert result.exit_code == 0 and result.output == f"{__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "nearest"),
    [(["trian"], "train"), (["knowledg"], "knowledge"), (["knowledge", "serach"], "search")],
)
def test_a_wrong_verb_suggests_the_nearest(arguments: list[str], nearest: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert f"No such command '{arguments[-1]}'. Did you mean '{nearest}'?" in words_of(result.output)


def test_an_error_is_one_paragraph_on_stderr_without_a_traceback(workspace: Path) -> None:
    done = in_process("train", workspace / "tiny.toml", "--set", "data.test=[]")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert "error" in done.stderr and "no [[data.test]]" in done.stderr, "brackets are not markup"
    assert len(done.stderr.strip().splitlines()) == 1


def test_debug_shows_the_traceback(workspace: Path) -> None:
    done = in_process("evaluate", "--bank", workspace / "nowhere", "--data", workspace / "none.jsonl", DIEKAE_DEBUG="1")
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "no such file" in done.stderr


def test_demo_removes_only_what_a_run_wrote(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    (tmp_path / "bank").mkdir()
    assert "'thesis.txt', which no run wrote" in error_of("demo", "--out", tmp_path, "--steps", "1")
    assert (tmp_path / "thesis.txt").is_file() and (tmp_path / "bank").is_dir()


def test_progress_without_a_terminal_prints_a_line_from_time_to_time_and_at_the_end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("diekae.cli.console.time.monotonic", lambda: now[0])
    with progress_bars() as (show, _):
        for step in range(1, 101):
            now[0] += 1.0
            show("training", step, 100)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == [f"training: {done} of 100" for done in (30, 60, 90, 100)]
    assert lines[0].endswith("0:29, about 1:07 left")
    assert "left" not in lines[-1]
