"""The command line: one file a verb, imported when the verb is called, for PyTorch takes seconds to load."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperCommand, TyperGroup

from diekae.allocator import keep_freed_memory
from diekae.version import __version__

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # read when Transformers is imported

VERBS = {
    "train": "Train a bank from a recipe, and measure it on held-out data.",
    "ask": "Answer a question from documents, and show what was read; say so where they do not answer it.",
    "evaluate": "Measure a bank on held-out examples: NLL, recovered, grounded, answers, and seconds a pass.",
    "layers": "Measure in which layers a decoder reads its context, and choose the layers of a bank.",
    "demo": "Answer from a document; then train a bank on fictional facts (minutes on a CPU), measure it and ask it.",
    "knowledge": "Keep documents and what a bank prepared of them.",
    "serve": "Serve decoder, documents and edits over HTTP, as OpenAI's clients expect it, with a page.",
    "edit": "Edit facts: each edit can be reverted, and nothing else changes.",
}
"""What `diekae --help` says of each verb; a verb's own help says more."""


class Verbs(TyperGroup):
    """A group of verbs that imports a verb when it is called."""

    package = __name__
    """Where a verb's module is."""
    verbs: Mapping[str, str] = VERBS
    """Help by verb."""

    def __init__(self, **options: Any) -> None:
        """List the verbs without importing them."""
        super().__init__(**options)
        self.commands = {verb: TyperCommand(verb, help=text) for verb, text in self.verbs.items()}

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Import the verb that was asked for; a wrong name fails as in any Typer group."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command and load_verb(f"{self.package}.{command.name}"), rest


def load_verb(module_name: str) -> Any:
    """Import a verb: a module with a `command`, or with a `group` of commands."""
    module, verb = import_module(module_name), module_name.rpartition(".")[2]
    if hasattr(module, "group"):
        command = typer.main.get_command(module.group)
    else:
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        app.command(verb)(module.command)
        command = typer.main.get_command(app)
    command.name = verb
    return command


def make_app(verbs: type[Verbs], help: str) -> typer.Typer:
    """Return a command line of verbs."""
    made = typer.Typer(cls=verbs, help=help, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)

    @made.callback()
    def main(
        version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
    ) -> None:
        if version:
            print(__version__)
            raise typer.Exit

    return made


def run_app(command_line: typer.Typer) -> None:
    """Run a command line; a user's mistake is one paragraph, without a traceback."""
    keep_freed_memory()
    try:
        command_line()
    except (ValueError, OSError, ModuleNotFoundError, FloatingPointError) as error:
        if os.environ.get("DIEKAE_DEBUG"):
            raise
        Console(stderr=True).print(f"[red bold]error[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(2)


typer_app = make_app(Verbs, "Give a frozen language model knowledge without spending its context.")


def app() -> None:
    """Run `diekae`."""
    run_app(typer_app)
