"""The command line of the research package: help, and wrong names."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from diekae_research.cli import VERBS, typer_app


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bench", "speed"], "benchmark 'speed' is not known; choose one of inference"),
        (["bench", "decode", "--dtype", "int4"], "--dtype 'int4' is not known; choose one of auto, fp32"),
    ],
)
def test_bench_refuses_an_unknown_benchmark_and_dtype(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(typer_app, arguments)
    assert isinstance(result.exception, ValueError) and message in str(result.exception), result.output


def test_help_names_every_verb_without_importing_pytorch() -> None:
    script = (
        "import atexit, sys; from diekae_research.cli import app\n"
        "atexit.register(lambda: print(sorted({'torch', 'transformers'} & set(sys.modules))))\n"
        "app()"
    )
    done = subprocess.run([sys.executable, "-c", script, "--help"], capture_output=True, text=True, timeout=60)
    assert all(verb in done.stdout for verb in VERBS) and done.stdout.rstrip().endswith("[]")
