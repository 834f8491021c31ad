"""Runs of the command line in tests."""

import json
from pathlib import Path
from typing import Any, NoReturn

from click.testing import Result
from typer.testing import CliRunner

from diekae.cli import typer_app


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


def read_json(path: Path) -> Any:
    """Read strict JSON: NaN and Infinity are refused."""

    def refuse(name: str) -> NoReturn:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(path.read_text(), parse_constant=refuse)
