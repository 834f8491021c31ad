"""The command line: one file a verb."""

from __future__ import annotations

import os
import sys

import typer
from rich.console import Console
from rich.markup import escape

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from diekae.allocator import keep_freed_memory  # noqa: E402 - the verbosity is read when Transformers is imported
from diekae.cli import (  # noqa: E402
    ask,
    bench,
    curves,
    data,
    demo,
    edit_measure,
    evaluate,
    knowledge,
    layers,
    reproduce,
    train,
)
from diekae.training.trainer import NotFinite  # noqa: E402

typer_app = typer.Typer(
    help="Give a frozen language model knowledge without spending its context.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for verb in (train, ask, evaluate, curves, layers, reproduce, bench, demo):
    typer_app.command(verb.__name__.rpartition(".")[2])(verb.command)
typer_app.add_typer(data.group, name="data")
typer_app.add_typer(knowledge.group, name="knowledge")
typer_app.add_typer(edit_measure.group, name="edit")


def app() -> None:
    """Run the command line; what a user did wrong is said in one paragraph, without a traceback."""
    keep_freed_memory()
    try:
        typer_app()
    except (ValueError, OSError, ModuleNotFoundError, NotFinite) as error:
        if os.environ.get("DIEKAE_DEBUG"):
            raise
        Console(stderr=True).print(f"[red bold]error[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(2)
