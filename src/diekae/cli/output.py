"""What the command line prints and writes: texts of users and documents cannot act as markup or steer a terminal."""

from __future__ import annotations

import io
import os
import re
import sys
import tempfile
from pathlib import Path

import typer
from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.segment import Segment

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters except tab and line break, marks that turn the direction of writing, and lone surrogates, which
stand for bytes that are not UTF-8."""


def printable(text: str) -> str:
    r"""Return a text whose control characters are written as escapes, such as ``\x1b``; tabs and line breaks stay."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text.replace("\r\n", "\n"))


def one_line(text: str) -> str:
    """Return a printable text on one line."""
    return " ".join(line.strip() for line in printable(text).splitlines())


def printable_name(name: object) -> str:
    r"""Return a name or path as printable text on one line; a line break in it is written as ``\n``."""
    return printable(str(name)).replace("\n", "\\n")


def make_console(*, stderr: bool = False) -> Console:
    """Return a console that prints no control characters but its own, and replaces no ``:name:`` by an emoji."""
    made = Console(stderr=stderr, emoji=False)
    made.push_render_hook(_PrintableText())
    return made


class _PrintableText(RenderHook):
    """Makes everything printable that a console prints."""

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Printable(renderable) for renderable in renderables]


class _Printable:
    """Something to print, with printable texts."""

    def __init__(self, renderable: ConsoleRenderable) -> None:
        self.renderable = renderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self.renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


def accept_any_text() -> None:
    r"""Let standard output write characters that its encoding lacks as escapes, such as ``\xe9``, and not fail."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def flush_output() -> None:
    """Write what standard output still holds; after an error nothing more is written to it.

    Raises:
        BrokenPipeError: Nobody reads the output any more, as in ``diekae … | head``.
        OSError: The output cannot be written.
    """
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError:
        # Otherwise the interpreter tries again when it ends, and prints an error of its own.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def output_file(path: Path | None) -> Path | None:
    """Return the path of a file that a verb writes at its end, checked before the long work: an option's callback."""
    if path is None:
        return None
    try:
        if path.exists() and not path.is_file():
            raise OSError(0, "it is a folder or a device")
        # Missing folders are created when the file is written, so the nearest existing one must be writable.
        folder = next(folder for folder in path.absolute().parents if folder.exists())
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{path.name}.")
    except OSError as error:
        raise typer.BadParameter(
            f"{printable_name(path)!r} cannot be written ({error.strerror}); name a file in a folder that can be."
        ) from error
    os.close(handle)
    os.unlink(temporary)
    return path


def question_text(text: str) -> str:
    """Return a question of the command line, checked: an argument's callback."""
    if not text.strip():
        raise typer.BadParameter("it is blank; ask a question.")
    return unicode_texts([text])[0]


def unicode_texts(texts: list[str]) -> list[str]:
    """Return texts of the command line, checked: an option's callback."""
    from diekae.data.jsonl import check_unicode  # imported here, so that help is shown without PyTorch

    for text in texts:
        try:
            check_unicode("the text", text)
        except ValueError as error:
            raise typer.BadParameter(f"{error}.") from error
    return texts
