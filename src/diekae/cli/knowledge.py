"""`diekae knowledge`: documents in a folder, prepared once and reused."""

from __future__ import annotations

import dataclasses
import json as jsonlib
import re
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from diekae.cli.console import (
    EXACT,
    AnyBankOption,
    DecoderOption,
    DeviceOption,
    DtypeOption,
    EmbedderOption,
    FormatOption,
    chosen_bank,
    console,
    load_model,
    print_text,
    progress_bars,
)
from diekae.cli.output import one_line, printable_name, question_text, unicode_texts
from diekae.knowledge.codec import Precision
from diekae.store import AddResult, FoundPassage, KnowledgeStore, StoredDocument
from diekae.store.layout import CATALOGUE
from diekae.store.words import normalized_words, query_words

group = typer.Typer(
    help="Keep documents and their prepared knowledge in a folder, to ask them many times.\n\n"
    "This folder is called a store. Ask it with `diekae ask --store FOLDER`.",
    no_args_is_help=True,
    add_completion=False,
)
StoreOption = Annotated[Path, typer.Option(help="Folder of the store.")]
_STORE = Path("knowledge")
_INDENT = " " * 22
"""Before the second line of a passage, so that it begins below its title."""
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])")


def check_store(folder: Path) -> None:
    """Check that there is a store (FileNotFoundError), so that a command that only reads does not create one."""
    if not (folder / CATALOGUE).is_file():
        raise FileNotFoundError(
            f"no store at {str(folder)!r}; make one with `diekae knowledge add --store {folder} PATH`."
        )


@group.command()
def add(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Files and folders. Without any, the store's own documents are prepared for this bank.",
            show_default=False,
        ),
    ] = None,
    store: StoreOption = _STORE,
    text: Annotated[
        list[str], typer.Option(callback=unicode_texts, help="A text to add as a document. May be repeated.")
    ] = [],  # noqa: B006
    precision: Annotated[
        Precision,
        typer.Option(help="How prepared knowledge is kept: exact, bf16 (half the size) or int8 (a quarter)."),
    ] = "exact",
    prune: Annotated[
        bool, typer.Option("--prune", help="Also remove documents whose files are gone from these folders.")
    ] = False,
    embedder: EmbedderOption = None,
    decoder: DecoderOption = None,
    bank: AnyBankOption = None,
    format: FormatOption = "auto",
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
) -> None:
    """Add files, folders and texts, and prepare them.

    Files may be text, Markdown, HTML, PDF, Word, CSV, JSON and e-mail. Only what is new or changed is read.

    Documents are prepared for one bank or decoder, and one format: use the same ones in `diekae ask`.
    """
    bank = chosen_bank(bank, decoder, EXACT)
    for path in paths or ():
        if not path.exists():
            raise FileNotFoundError(f"nothing at {str(path)!r}; expected a file or a folder of documents.")
    KnowledgeStore(store, precision=precision).close()  # report what is wrong with it before a model is loaded
    model = load_model(bank, device, dtype, format, decoder=decoder)
    opened_store = KnowledgeStore(store, model, precision=precision, embedder=embedder)
    with progress_bars() as (show, _):
        if paths or text:
            result = opened_store.add([*(paths or ()), *text], prune=prune, progress=show)
        else:
            result = AddResult(prepared=opened_store.prepare_missing(show))
    _print_result(result, prune)
    if result.failed:
        raise typer.Exit(1)


def print_unread(result: AddResult) -> None:
    """Print the files that were not read, and why."""
    for path, reason in result.failed:
        line = Text.assemble(("left out", "red"), f" {printable_name(path)}: {one_line(reason)}")
        console.print(line, highlight=False, soft_wrap=True)
    if result.skipped:
        print_text(f"skipped {len(result.skipped)} files of other kinds, or links out of the folder:")
        for path in result.skipped:
            print_text(f"  {printable_name(path)}")


def _print_result(result: AddResult, prune: bool) -> None:
    """Print what was added, and what could not be read."""
    print_unread(result)
    parts = [
        f"{len(result.ids)} documents",
        f"{len(result.prepared)} prepared now",
        f"{result.unchanged} files unchanged",
    ]
    if result.gone:
        parts.append(f"{len(result.gone)} files gone{' and removed' if prune else ' (--prune removes them)'}")
    print_text(", ".join(parts))


@group.command("list")
def list_(
    store: StoreOption = _STORE,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, one document a line.")] = False,
) -> None:
    """List all documents: id, slots (about one a token) and size of the prepared knowledge, precision, and files."""
    check_store(store)
    # Plain lines, printed one by one: a table of ten thousand rows takes many seconds, and a million fills the memory.
    count, prepared, size = 0, 0, 0
    for document in KnowledgeStore(store).iter_documents():
        print(jsonlib.dumps(dataclasses.asdict(document)) if json else _line(document))
        count, prepared, size = count + 1, prepared + (document.slots is not None), size + (document.bytes or 0)
    if not json:
        print(f"{count} documents, {prepared} prepared, {size / 1e6:.1f} MB of prepared knowledge")


def _line(document: StoredDocument) -> str:
    """Return the line of one document."""
    slots = "not prepared" if document.slots is None else f"{document.slots} slots"
    size = "" if document.bytes is None else f"{document.bytes / 1e6:.2f} MB"
    files = " ".join(map(printable_name, document.places)) or printable_name(document.title)
    return f"{document.id[:12]}  {slots:>12}  {size:>10}  {document.precision or '':<5}  {files}"


@group.command()
def search(
    question: Annotated[str, typer.Argument(callback=question_text, help="The question.")],
    store: StoreOption = _STORE,
    count: Annotated[int, typer.Option(min=1, help="How many passages to show.")] = 3,
    embedder: EmbedderOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, one passage a line.")] = False,
) -> None:
    """Show the passages that a question finds, best first: document, score, title, headings, and the best line."""
    check_store(store)
    passages = KnowledgeStore(store, embedder=embedder).search(question, count)
    if json:
        print("".join(f"{jsonlib.dumps(dataclasses.asdict(passage))}\n" for passage in passages), end="")
        return
    for passage in passages:
        _print_passage(passage, question)
    if not passages:
        print_text("the store is empty")


def _print_passage(passage: FoundPassage, question: str) -> None:
    """Print a passage on two lines."""
    headings = f"{passage.heading} > ".removeprefix(f"{passage.title} > ").removesuffix(" > ")
    place = f"{passage.id[:12]}  {passage.score:6.3f}  {printable_name(passage.title)}"
    heading = Text.assemble(place, (f"  {printable_name(headings)}" if headings else "", "dim"))
    console.print(heading, highlight=False, soft_wrap=True)
    line = Text(_INDENT + printable_name(_best_line(passage.text, question)))
    console.print(line, no_wrap=True, overflow="ellipsis", highlight=False)


def _best_line(text: str, question: str) -> str:
    """Return the sentence or table row of a passage that shares most words with a question."""
    lines = [line for line in text.split("\n") if not line.lstrip().startswith("#")]
    sentences = [" ".join(part.split()) for line in lines for part in _SENTENCE_END.split(line) if part.strip()]
    wanted = set(query_words(question))
    return max(sentences or [" ".join(text.split())], key=lambda part: len(wanted & set(normalized_words(part))))


@group.command()
def remove(
    names: Annotated[list[str], typer.Argument(help="Documents: id, beginning of an id, file, or title.")],
    store: StoreOption = _STORE,
) -> None:
    """Remove documents, with what all banks prepared of them."""
    check_store(store)
    opened_store = KnowledgeStore(store)
    # All names are looked up first: a wrong name removes nothing.
    ids = [opened_store.catalogue.documents.find(name) for name in names]
    for document in map(opened_store.remove, dict.fromkeys(ids)):
        print_text(f"removed {document.id[:12]} {printable_name(document.title)}")


@group.command()
def verify(
    store: StoreOption = _STORE,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Delete damaged files. Documents stay, and are prepared again when needed."),
    ] = False,
    embedder: EmbedderOption = None,
) -> None:
    """Check all files of the store; the exit code is 1 if something is wrong and was not repaired."""
    check_store(store)
    with progress_bars() as (show, _):
        faults = KnowledgeStore(store, embedder=embedder).verify(repair=repair, progress=show)
    for fault in faults:
        done = ", removed" if fault.repaired else ""
        print_text(f"{fault.kind}: {printable_name(fault.file)}{done}")
    print_text("nothing is wrong" if not faults else f"{len(faults)} faults")
    if any(not fault.repaired for fault in faults):
        raise typer.Exit(1)
