"""`diekae ask`: an answer from documents, with its source; or the word that they do not answer."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.panel import Panel

from diekae.answering import Answer, Source, ask
from diekae.answering.answer import PASSAGES
from diekae.answering.confidence import THRESHOLD
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
from diekae.cli.knowledge import check_store, name_left_out
from diekae.model import DiekaeModel
from diekae.provenance import write_json
from diekae.store import KnowledgeStore
from diekae.store.words import asked_words, words_of

SHOWN = 600
"""Most characters of a passage that are printed."""


def command(
    question: Annotated[str, typer.Argument(help="What to ask.")],
    knowledge: Annotated[
        list[Path],
        typer.Option(help="A file or folder: text, Markdown, HTML, PDF, Word, CSV, JSON, e-mail; may be repeated."),
    ] = [],  # noqa: B006
    store: Annotated[Path | None, typer.Option(help="Or a store, in which documents were prepared before.")] = None,
    document: Annotated[
        list[str], typer.Option(help="Look only into this document of the store: id, file or title; may be repeated.")
    ] = [],  # noqa: B006
    passages: Annotated[int, typer.Option(min=1, help="Passages that are read.")] = PASSAGES,
    threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Least confidence that counts as answered by the documents.")
    ] = THRESHOLD,
    bank: BankOption = EXACT,
    format: Annotated[str, typer.Option(help="plain, qa or chat; auto: chat where the decoder knows chats.")] = "auto",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 64,
    device: DeviceOption = "auto",
    json: Annotated[Path | None, typer.Option(help="Where the answer goes, with its sources.")] = None,
) -> None:
    """Answer a question from documents, and show what was read; say so where they do not answer it."""
    check_choice("format", None if format == "auto" else format)
    device_of(device)
    _check_source(knowledge, store, document)
    model = load_model(bank, device, format=format)
    with _opened(model, knowledge, store) as opened:
        found = ask(
            model,
            question,
            opened,
            documents=document,
            passages=passages,
            max_new_tokens=max_new_tokens,
            threshold=threshold,
        )
    _show(found)
    if json is not None:
        write_json(json, as_json(found))
        console.print(f"answer: {json}", highlight=False)


def as_json(answer: Answer) -> dict[str, object]:
    """Return an answer for scripts."""
    values = dataclasses.asdict(answer)
    return {"question": values.pop("question"), "answer": values.pop("text"), **values}


def _check_source(knowledge: list[Path], store: Path | None, document: list[str]) -> None:
    """Check that there is one source of knowledge, before anything is loaded.

    Raises:
        ValueError: Neither a file nor a store is named, or both are, or a document without its store.
        FileNotFoundError: A file or the store is not there.
    """
    if bool(knowledge) == (store is not None):
        raise ValueError("name the knowledge: either --knowledge FILE, or --store FOLDER.")
    if document and store is None:
        raise ValueError(f"--document {document[0]!r} is one of a store's; name the store with --store FOLDER.")
    for path in knowledge:
        if not path.exists():
            raise FileNotFoundError(f"no knowledge at {str(path)!r}; expected a file or a folder of documents.")
    if store is not None:
        check_store(store)


@contextmanager
def _opened(model: DiekaeModel, knowledge: list[Path], store: Path | None) -> Iterator[KnowledgeStore]:
    """Open the store, or one of the files that lasts as long as the block."""
    if store is not None:
        yield KnowledgeStore(store, model)
        return
    with tempfile.TemporaryDirectory() as folder:
        kept = KnowledgeStore(folder, model)
        with progress_bars() as (show, _):
            added = kept.add(list(knowledge), progress=show)
        name_left_out(added)
        yield kept
        kept.close()


def _show(answer: Answer) -> None:
    """Print an answer and what it rests on."""
    console.print(f"[bold]{escape(answer.question)}[/]", highlight=False)
    sure = f"{answer.confidence:.0%} sure that the documents answer this, {answer.seconds:.1f} s"
    if answer.answered:
        console.print(escape(answer.text), highlight=False)
        console.print(f"[dim]{sure}[/]", highlight=False)
    else:
        console.print(f"[yellow]Not in your documents[/] [dim]({sure})[/]", highlight=False)
        if answer.bare:
            console.print(f"[dim]without them:[/] {escape(answer.bare)}", highlight=False)
    for source in answer.sources:
        console.print(Panel(_marked(source, answer), title=_place(source), title_align="left", border_style="dim"))


def _place(source: Source) -> str:
    heading = f", {source.heading}" if source.heading and source.heading != source.title else ""
    share = "" if source.share is None else f"{source.share:.0%} of the attention: "
    return share + escape(source.title + heading)


def _marked(source: Source, answer: Answer) -> str:
    """Return a passage in which words of the answer that are not the question's stand out."""
    wanted = set(asked_words(answer.text)) - set(words_of(answer.question)) if answer.answered else set()
    text = source.text if len(source.text) <= SHOWN else source.text[: SHOWN - 1] + "…"
    return " ".join(
        f"[bold]{escape(word)}[/]" if wanted & set(words_of(word)) else escape(word) for word in text.split(" ")
    )
