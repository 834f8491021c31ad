"""The command line: one module for each verb, imported when it is called, because PyTorch takes seconds to load."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer
from rich.text import Text
from typer.core import TyperCommand, TyperGroup

from diekae.allocator import keep_freed_memory
from diekae.cli.errors import exit_code, explain
from diekae.cli.output import accept_any_text, flush_output, make_console
from diekae.version import __version__

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # read when Transformers is imported
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # in 8 bits it warns at every product

VERBS = {
    "ask": "Answer a question from documents, and show the passages that were read.",
    "knowledge": "Keep documents and their prepared knowledge in a folder, to ask them many times.",
    "serve": "Serve a decoder, documents and edits to OpenAI clients over HTTP, with a page.",
    "edit": "Edit facts; each edit can be reverted.",
    "demo": "Ask a document, then train a bank and measure it (minutes on a CPU).",
    "train": "Train a bank from a recipe or from your documents, and measure it.",
    "evaluate": "Measure a bank on held-out examples: loss, answers and speed.",
    "layers": "Measure in which layers a decoder reads its context, and choose the layers of a bank.",
}
"""What each verb does. The verb's own help begins with this sentence too."""
INTERRUPTED = 130
"""Exit code after Ctrl+C, as shells count it: 128 and the number of the signal."""


class Verbs(TyperGroup):
    """A group of verbs, each imported when it is called."""

    package = __name__
    """The package of the verbs' modules."""
    verbs: Mapping[str, str] = VERBS
    """What each verb does."""

    def __init__(self, **options: Any) -> None:
        """List the verbs without importing them."""
        super().__init__(**options)
        self.commands = {verb: TyperCommand(verb, help=text) for verb, text in self.verbs.items()}

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Import the verb that is called; an unknown verb is an error that names the nearest one."""
        name, listed, rest = super().resolve_command(ctx, args)
        if listed is None:
            return name, None, rest
        verb = str(listed.name)
        command = load_verb(f"{self.package}.{verb}")
        details = (command.help or "").split("\n\n")[1:]  # what follows the docstring's summary
        command.help = "\n\n".join([self.verbs[verb], *(" ".join(text.split()) for text in details)])
        return name, command, rest


def load_verb(module_name: str) -> Any:
    """Import a verb: a module with a function `command`, or with a `group` of commands."""
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
    command_line = typer.Typer(
        cls=verbs, help=help, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False
    )

    @command_line.callback()
    def main(
        version: Annotated[
            bool,
            typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version),
        ] = False,
    ) -> None:
        pass

    return command_line


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


def run_app(command_line: typer.Typer) -> None:
    """Run a command line, and end the process; an error is printed as one line, without a traceback.

    The exit code is 0; 2 for an error that another call or other files mend; 130 after Ctrl+C, 143 after
    SIGTERM, 129 after SIGHUP; 1 for other failures.
    """
    keep_freed_memory()
    accept_any_text()
    _clean_up_when_ended()
    try:
        code = _run(command_line)
    except BrokenPipeError:
        sys.exit(1)
    except Exception as error:
        message = explain(error)
        if message is None or os.environ.get("DIEKAE_DEBUG"):
            raise
        with suppress(OSError):
            flush_output()
        _print_error(Text.assemble(("error", "red bold"), " ", message))
        sys.exit(exit_code(error))
    if code == INTERRUPTED:
        _print_error(Text("interrupted"))
    sys.exit(code)


def _clean_up_when_ended() -> None:
    """Leave all blocks before a signal ends the process, so that no temporary folder with documents stays.

    A closed terminal sends SIGHUP; under ``nohup`` it is ignored, and stays so.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _end)


def _end(number: int, _frame: object) -> NoReturn:
    sys.exit(128 + number)


def _run(command_line: typer.Typer) -> int | str | None:
    """Run a command line, and return its exit code."""
    code: int | str | None = 0
    try:
        command_line()
    except KeyboardInterrupt:
        code = INTERRUPTED
    except SystemExit as end:  # Typer ends with it, also after success
        code = end.code
    flush_output()
    return code


def _print_error(text: Text) -> None:
    make_console(stderr=True).print(text, highlight=False, soft_wrap=True)


typer_app = make_app(
    Verbs,
    "Give a frozen language model knowledge without spending its context.\n\n"
    'First steps: `diekae demo`, or `diekae ask --knowledge FILE "your question"`.',
)


def app() -> None:
    """Run `diekae`."""
    run_app(typer_app)
