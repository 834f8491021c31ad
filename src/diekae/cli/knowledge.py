"""`diekae knowledge`: documents in a folder, prepared once and reused."""

from __future__ import annotations

import dataclasses
import json as jsonlib
import re
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.text import Text

from diekae.cli.console import (
    EXACT,
    BankOption,
    DeviceOption,
    check_choice,
    console,
    device_of,
    load_model,
    progress_bars,
)
from diekae.store import Added, Entry, KnowledgeStore
from diekae.store.words import asked_words, words_of

group = typer.Typer(help="Keep documents and what a bank prepared of them.", no_args_is_help=True, add_completion=False)
StoreOption = Annotated[Path, typer.Option(help="The store's folder.")]
_STORE = Path("knowledge")
_INDENT = " " * 22
"""Of a passage's line: below its title."""
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])")


def check_store(folder: Path) -> None:
    """Check that there is a store, so that reading one begins none.

    Raises:
        FileNotFoundError: There is none.
    """
    if not (folder / "catalogue.sqlite").is_file():
        raise FileNotFoundError(
            f"no store at {str(folder)!r}; expected what `diekae knowledge add --store {folder} PATH` makes."
        )


@group.command()
def add(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(help="Files and folders; without any, what this bank has not prepared yet.", show_default=False),
    ] = None,
    store: StoreOption = _STORE,
    text: Annotated[list[str], typer.Option(help="A document given as it is; may be repeated.")] = [],  # noqa: B006
    precision: Annotated[str, typer.Option(help="How new memory is kept: exact, bf16 or int8.")] = "exact",
    prune: Annotated[bool, typer.Option("--prune", help="Remove files of these folders that are gone.")] = False,
    bank: BankOption = EXACT,
    format: Annotated[str, typer.Option(help="Format of the questions to come, as `diekae ask` has it.")] = "auto",
    device: DeviceOption = "auto",
) -> None:
    """Add text, Markdown, HTML, PDF, Word, CSV, JSON and e-mail files, or folders of them.

    Only what is new or changed is read and prepared.
    """
    device_of(device)
    check_choice("format", None if format == "auto" else format)
    for path in paths or ():
        if not path.exists():
            raise FileNotFoundError(f"nothing at {str(path)!r}; expected a file or a folder of documents.")
    KnowledgeStore(store, precision=precision).close()  # what is wrong with it is said before a model is loaded
    kept = KnowledgeStore(store, load_model(bank, device, format=format), precision=precision)
    with progress_bars() as (show, _):
        added = kept.add([*(paths or ()), *text], prune=prune, progress=show) if paths or text else Added()
        added.prepared = added.prepared if paths or text else kept.prepare_missing(show)
    _report(added, prune)
    if added.failed:
        raise typer.Exit(1)


def name_left_out(added: Added) -> None:
    """Name the files that were not read, and why."""
    for place, why in added.failed:
        console.print(f"[red]left out[/] {escape(place)}: {escape(why)}", highlight=False, soft_wrap=True)
    if added.skipped:
        console.print(
            f"skipped {len(added.skipped)} files of other kinds, or links out of the folder:", highlight=False
        )
        for place in added.skipped:
            console.print(f"  {place}", highlight=False, markup=False, soft_wrap=True)


def _report(added: Added, prune: bool) -> None:
    """Say what was done, and what could not be."""
    name_left_out(added)
    parts = [f"{len(added.ids)} documents", f"{len(added.prepared)} prepared now", f"{added.unchanged} files unchanged"]
    if added.gone:
        parts.append(f"{len(added.gone)} files gone{' and removed' if prune else ' (--prune removes them)'}")
    console.print(", ".join(parts), highlight=False)


@group.command("list")
def list_(
    store: StoreOption = _STORE,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, a document a line.")] = False,
) -> None:
    """List all documents: id, tokens of prepared memory, its size, and where the text came from."""
    check_store(store)
    entries = KnowledgeStore(store).documents()
    # Plain lines: a table of ten thousand rows takes many seconds to lay out.
    lines = [jsonlib.dumps(dataclasses.asdict(entry)) if json else _line(entry) for entry in entries]
    if not json:
        prepared = sum(entry.slots is not None for entry in entries)
        size = sum(entry.bytes or 0 for entry in entries) / 1e6
        lines.append(f"{len(entries)} documents, {prepared} prepared, {size:.1f} MB of memory")
    sys.stdout.write("\n".join(lines) + "\n" if lines else "")


def _line(entry: Entry) -> str:
    """Lay one document out."""
    kept = "not prepared" if entry.slots is None else f"{entry.slots} slots"
    size = "" if entry.bytes is None else f"{entry.bytes / 1e6:.2f} MB"
    where = " ".join(entry.places) or entry.title
    return f"{entry.id[:12]}  {kept:>12}  {size:>10}  {entry.precision or '':<5}  {where}"


@group.command()
def search(
    question: Annotated[str, typer.Argument(help="What to look for.")],
    store: StoreOption = _STORE,
    count: Annotated[int, typer.Option(min=1, help="Passages.")] = 3,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, a passage a line.")] = False,
) -> None:
    """Show which passages a question leads to, the best first: document, score, title, headings, and a line of each."""
    check_store(store)
    passages = KnowledgeStore(store).search(question, count)
    if json:
        sys.stdout.write("".join(jsonlib.dumps(dataclasses.asdict(passage)) + "\n" for passage in passages))
        return
    for passage in passages:
        above = f"{passage.heading} > ".removeprefix(f"{passage.title} > ").removesuffix(" > ")
        where = escape(passage.title) + (f"  [dim]{escape(above)}[/]" if above else "")
        console.print(f"{passage.id[:12]}  {passage.score:6.3f}  {where}", highlight=False, soft_wrap=True)
        line = Text(_INDENT + _best_line(passage.text, question))
        console.print(line, no_wrap=True, overflow="ellipsis", highlight=False)
    if not passages:
        console.print("the store is empty", highlight=False)


def _best_line(text: str, question: str) -> str:
    """Return the sentence or row of a passage that shares most words with a question; headings stand above it."""
    lines = [line for line in text.split("\n") if not line.lstrip().startswith("#")]
    sentences = [" ".join(part.split()) for line in lines for part in _SENTENCE_END.split(line) if part.strip()]
    asked = set(asked_words(question))
    return max(sentences or [" ".join(text.split())], key=lambda part: len(asked & set(words_of(part))))


@group.command()
def remove(
    names: Annotated[list[str], typer.Argument(help="Documents, by id or its beginning, file or title.")],
    store: StoreOption = _STORE,
) -> None:
    """Forget documents, with the memory of all banks."""
    check_store(store)
    kept = KnowledgeStore(store)
    ids = [kept.catalogue.find(name) for name in names]  # all names are known before the first is removed
    for entry in map(kept.remove, dict.fromkeys(ids)):
        console.print(f"removed {entry.id[:12]} {entry.title}", highlight=False, markup=False)


@group.command()
def verify(
    store: StoreOption = _STORE,
    repair: Annotated[bool, typer.Option("--repair", help="Remove what is wrong; it is prepared anew.")] = False,
) -> None:
    """Compare all files with the catalogue; exits with 1 if something is wrong and was not repaired."""
    check_store(store)
    with progress_bars() as (show, _):
        faults = KnowledgeStore(store).verify(repair=repair, progress=show)
    for fault in faults:
        done = ", removed" if fault.repaired else ""
        console.print(f"{fault.kind}: {fault.file}{done}", highlight=False, markup=False, soft_wrap=True)
    console.print("nothing is wrong" if not faults else f"{len(faults)} faults", highlight=False)
    if any(not fault.repaired for fault in faults):
        raise typer.Exit(1)
