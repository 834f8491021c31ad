"""Code blocks of Markdown pages, found and run with Sybil: ``python``, and ``console`` for cheap commands."""

import contextlib
import io
import re
import shlex
from pathlib import Path

from sybil import Document, Example
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser
from typer.testing import CliRunner

import diekae.cli
import diekae_research.cli
from diekae.cli import load_verb

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
APPS = {"diekae": diekae.cli.typer_app, "diekae-research": diekae_research.cli.typer_app}
_EXPECTED = re.compile(r"^ *print\(.*\)  # (.+)$", re.MULTILINE)


def run_python(example: Example) -> None:
    """Run one block; what a page says that ``print(…)  # …`` prints must begin that way."""
    with contextlib.redirect_stdout(io.StringIO()) as output:
        PythonEvaluator()(example)
    lines = output.getvalue().splitlines()
    for expected in _EXPECTED.findall(example.parsed):
        assert any(line.startswith(expected) for line in lines), f"{example.path}: {expected!r} is not in {lines}"


def run_commands(example: Example) -> None:
    """Run the lines that begin with ``$``, which must succeed."""
    for line in example.parsed.splitlines():
        if line.startswith("$ "):
            name, *arguments = shlex.split(line[2:])
            result = CliRunner().invoke(APPS[name], arguments)
            assert result.exit_code == 0, f"{line}\n{result.output}\n{result.exception!r}"


def blocks_of(page: Path, language: str) -> list[Example]:
    """Return a page's blocks of one language; they share a namespace, from the top of the page down."""
    run = {"python": run_python, "console": run_commands}.get(language)
    return list(Document.parse(str(page), CodeBlockParser(language, run)).examples())


def needs_of(page: Path) -> list[str]:
    """Return the modules that a page's code needs besides ours: ``<!-- needs: name -->`` above a block."""
    return re.findall(r"<!-- needs: (\w+) -->", page.read_text())


def commands_of(page: Path) -> list[list[str]]:
    """Return the ``diekae`` and ``diekae-research`` lines of a page's ``bash`` and ``console`` blocks, split."""
    blocks = blocks_of(page, "bash") + blocks_of(page, "console")
    lines = [line.removeprefix("$ ") for block in blocks for line in block.parsed.splitlines()]
    commands = [shlex.split(line, comments=True) for line in lines]
    return [command for command in commands if command and command[0] in APPS]


def parse_command(program: str, *arguments: str) -> None:
    """Parse a command line without running it: its verb, its options and how many arguments there are."""
    if arguments[0].startswith("-"):
        return
    verb, *rest = arguments
    command = load_verb(f"{program.replace('-', '_')}.cli.{verb}")
    if commands := getattr(command, "commands", None):
        name, *rest = rest
        command = commands[name]
    command.make_context(command.name, [word for word in rest if word != "--help"])
