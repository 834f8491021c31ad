"""The command line: one file a verb, imported when the verb is called, for PyTorch takes seconds to load."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperCommand, TyperGroup

from diekae.allocator import keep_freed_memory

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # read when Transformers is imported

VERBS = {
    "train": "Train a bank as a recipe says, and measure it on held-out data.",
    "ask": "Answer a question from documents, and show what was read; say so where they do not answer it.",
    "evaluate": "Measure D(x), D(K,x) and ours on held-out examples: NLL, recovered, grounded, answers, and seconds a "
    "pass.",
    "curves": "Measure a bank by number of documents, length of knowledge, target position and copying, and its harm.",
    "layers": "Measure in which layers a decoder reads its context, and choose the layers of a bank.",
    "reproduce": "Measure a table of the paper; what an earlier call has measured is read back.",
    "bench": "Measure a benchmark: with knowledge against without, against K in the prompt, and against a cached "
    "prefix.",
    "demo": "Ask the shipped bank; train one on fictional facts (a quarter of an hour on a slow core), measure and "
    "ask it.",
    "data": "Fetch data sets, turn them into examples, and look at them.",
    "knowledge": "Keep documents and what a bank prepared of them.",
    "edit": "Edit facts: each revertible, and nothing else changed.",
}
"""What `diekae --help` says of each; a verb's own help says more."""
_ELSEWHERE = {"edit": "edit_measure"}
"""Modules that are not named as their verb: this one adds two commands to the group of another."""


class _Verbs(TyperGroup):
    """Knows the verbs by name, and imports the one that is called."""

    def __init__(self, **options: Any) -> None:
        """Hold what the list of verbs shows."""
        super().__init__(**options)
        self.commands = {verb: TyperCommand(verb, help=words) for verb, words in VERBS.items()}

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Import the verb that was asked for; a wrong name fails as ever."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command and load_verb(command.name or ""), rest


def load_verb(verb: str) -> Any:
    """Import a verb, a command or a group of them."""
    module = import_module(f"{__name__}.{_ELSEWHERE.get(verb, verb)}")
    if hasattr(module, "group"):
        command = typer.main.get_command(module.group)
    else:
        alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        alone.command(verb)(module.command)
        command = typer.main.get_command(alone)
    command.name = verb
    return command


typer_app = typer.Typer(
    cls=_Verbs,
    help="Give a frozen language model knowledge without spending its context.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@typer_app.callback()
def _main() -> None:
    """Make Typer see a group, though no verb is imported yet."""


def app() -> None:
    """Run the command line; what a user did wrong is said in one paragraph, without a traceback."""
    keep_freed_memory()
    try:
        typer_app()
    except (ValueError, OSError, ModuleNotFoundError, FloatingPointError) as error:
        if os.environ.get("DIEKAE_DEBUG"):
            raise
        Console(stderr=True).print(f"[red bold]error[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(2)
