"""Runs of the command line in tests."""

import io
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple, NoReturn
from unittest.mock import patch

import typer
from click.testing import Result
from typer.testing import CliRunner

from diekae.cli import run_app, typer_app


def invoke(*arguments: str | Path) -> Result:
    """Run `diekae` with these arguments."""
    return CliRunner().invoke(typer_app, [str(argument) for argument in arguments], terminal_width=200)


def succeed(*arguments: str | Path) -> str:
    """Run `diekae`, which must succeed, and return its output."""
    result = invoke(*arguments)
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    return result.output


def error_of(*arguments: str | Path) -> str:
    """Run `diekae`, which must raise an error of the user, and return the error's text."""
    result = invoke(*arguments)
    assert isinstance(result.exception, ValueError | OSError), result.output
    return str(result.exception)


class Ended(NamedTuple):
    """How a run of the whole program ended, with the handling of its errors."""

    code: int
    """Exit code."""
    output: str
    """Standard output."""
    errors: str
    """Standard error."""


def run(*arguments: str | Path, encoding: str = "utf-8", app: typer.Typer = typer_app) -> Ended:
    """Run `diekae` as the shell does, in this process; an error that it does not explain is raised."""
    buffers = [io.BytesIO(), io.BytesIO()]
    streams = [io.TextIOWrapper(buffer, encoding=encoding) for buffer in buffers]
    with (
        patch.object(sys, "argv", ["diekae", *map(str, arguments)]),
        patch.object(sys, "stdout", streams[0]),
        patch.object(sys, "stderr", streams[1]),
    ):
        try:
            run_app(app)
        except SystemExit as end:
            code = int(end.code or 0)
    for stream in streams:
        stream.flush()
    output, errors = (buffer.getvalue() for buffer in buffers)
    return Ended(code, output.decode(encoding), errors.decode(encoding))


def read_json(path: Path) -> Any:
    """Read strict JSON: NaN and Infinity are refused."""

    def refuse(name: str) -> NoReturn:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(path.read_text(), parse_constant=refuse)
