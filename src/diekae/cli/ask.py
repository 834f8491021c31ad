"""`diekae ask`: answers with and without knowledge, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from diekae.cli.console import EXACT, BankOption, DeviceOption, check_choice, console, device_of, load_model
from diekae.cli.knowledge import check_store
from diekae.memory import Knowledge, Memory
from diekae.model import DiekaeModel
from diekae.store import KnowledgeStore
from diekae.store.readers import read_document


def command(
    question: Annotated[str, typer.Argument(help="What to ask.")],
    knowledge: Annotated[list[Path], typer.Option(help="A file: text, Markdown, HTML or PDF; may be repeated.")] = [],  # noqa: B006
    store: Annotated[Path | None, typer.Option(help="Or a store, which picks documents by the question.")] = None,
    document: Annotated[
        list[str], typer.Option(help="A document of the store, by id, file or title; may be repeated.")
    ] = [],  # noqa: B006
    count: Annotated[int, typer.Option(min=1, help="Documents that the question picks.")] = 1,
    bank: BankOption = EXACT,
    format: Annotated[str | None, typer.Option(help="plain, qa or chat; the bank's own by default.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 24,
    device: DeviceOption = "auto",
) -> None:
    """Answer a question with knowledge injected, and without."""
    check_choice("format", format)
    device_of(device)
    _check_source(knowledge, store, document)
    texts = [read_document(path, any_kind=True) for path in knowledge]
    model = load_model(bank, device)
    memory = model.prepare(texts) if store is None else _pick(KnowledgeStore(store, model), question, document, count)
    table = Table(show_header=True)
    for name in ("", "answer"):
        table.add_column(name)
    table.add_row("without knowledge", escape(answer(model, question, None, format, max_new_tokens)))
    table.add_row("with knowledge", escape(answer(model, question, memory, format, max_new_tokens)))
    console.print(f"[bold]{escape(question)}[/]", highlight=False)
    console.print(table)


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
        if not path.is_file():
            raise FileNotFoundError(f"no knowledge file at {str(path)!r}; expected a text, Markdown, HTML or PDF file.")
    if store is not None:
        check_store(store)


def _pick(store: KnowledgeStore, question: str, names: list[str], count: int) -> Memory:
    """Return the memory of the named documents, or of those that the question leads to, and say which.

    Raises:
        ValueError: No document shares a word with the question.
    """
    if names:
        return store.memory(*names)
    found = store.search(question, count)
    if not found:
        raise ValueError(
            f"no document of {str(store.folder)!r} shares a word with {question!r}; name one with --document."
        )
    for one in found:
        console.print(f"[dim]from {escape(one.title)} ({one.id[:12]})[/]", highlight=False)
    return store.memory(*(one.id for one in found))


def answer(
    model: DiekaeModel, question: str, knowledge: Knowledge, format: str | None = None, max_new_tokens: int = 24
) -> str:
    """Generate greedily, and cut after the first line."""
    inputs: dict[str, Any] = model.tokenize(question, format)
    tokenizer = model.need_prompter().tokenizer
    out = model.generate(
        **inputs,
        knowledge=knowledge,
        min_new_tokens=1,  # an end at once is no answer
        max_new_tokens=max_new_tokens,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
    )
    text = str(tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)).strip()
    return text.split("\n")[0] if (format or model.config.format) != "chat" else text
