"""The command `diekae-research data` in tests, and what it leaves in a folder."""

from __future__ import annotations

from pathlib import Path

from click.testing import Result
from typer.testing import CliRunner

from diekae_research.cli import typer_app


def invoke(*arguments: object) -> Result:
    return CliRunner(env={"COLUMNS": "300"}).invoke(typer_app, ["data", *map(str, arguments)])


def said_by(*arguments: object) -> str:
    result = invoke(*arguments)
    assert isinstance(result.exception, ValueError), result.output
    return str(result.exception)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
