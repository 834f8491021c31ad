"""`diekae ask`: an answer from documents with its sources, or the notice that they do not answer the question."""

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
from diekae.cli.knowledge import check_store, print_unread
from diekae.cli.output import output_file, printable, printable_name, question_text
from diekae.model import DiekaeModel
from diekae.provenance import write_json
from diekae.store import KnowledgeStore
from diekae.store.words import normalized_words, query_words

LONGEST_PASSAGE = 600
"""Most characters of a passage that are printed."""
ThresholdOption = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="Least confidence at which the documents count as answering the question; by default the fitted one.",
        show_default=False,
    ),
]
AnswerFileOption = Annotated[
    Path | None, typer.Option(callback=output_file, help="File for the answer and its sources, as JSON.")
]


def command(
    question: Annotated[str, typer.Argument(callback=question_text, help="The question.")],
    knowledge: Annotated[
        list[Path],
        typer.Option(help="A file or folder: text, Markdown, HTML, PDF, Word, CSV, JSON or e-mail. May be repeated."),
    ] = [],  # noqa: B006
    store: Annotated[
        Path | None, typer.Option(help="Instead of --knowledge: a folder made by `diekae knowledge add`.")
    ] = None,
    document: Annotated[
        list[str], typer.Option(help="Search only this document of the store: its id, file or title. May be repeated.")
    ] = [],  # noqa: B006
    passages: Annotated[int, typer.Option(min=1, help="Most passages to read.")] = PASSAGES,
    threshold: ThresholdOption = None,
    embedder: EmbedderOption = None,
    decoder: DecoderOption = None,
    bank: AnyBankOption = None,
    format: FormatOption = "auto",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Maximum length of the answer, in tokens.")] = 64,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    json: AnswerFileOption = None,
) -> None:
    """Answer a question from documents, and show the passages that were read.

    If the documents do not answer the question, the output says so, and shows what the decoder answers without them.

    Example: diekae ask --knowledge manual.pdf "How long is the guarantee?"
    """
    bank = chosen_bank(bank, decoder, EXACT)
    _check_knowledge(knowledge, store, document)
    model = load_model(bank, device, dtype, format, decoder=decoder)
    shown = _Shown(question)
    with _open_store(model, knowledge, store, embedder) as opened_store:
        answer = ask(
            model,
            question,
            opened_store,
            documents=document,
            passages=passages,
            max_new_tokens=max_new_tokens,
            threshold=threshold,
            show=shown if shown.wanted else None,
        )
    if json is not None:  # before anything else is printed, because printing may fail
        write_json(json, as_json(answer))
    _print_answer(answer, shown)
    if json is not None:
        print_text(f"answer: {printable_name(json)}")


def as_json(answer: Answer) -> dict[str, object]:
    """Return an answer as values for JSON."""
    values = dataclasses.asdict(answer)
    return {"question": values.pop("question"), "answer": values.pop("text"), **values}


def _check_knowledge(knowledge: list[Path], store: Path | None, document: list[str]) -> None:
    """Check where the knowledge comes from, before anything is loaded."""
    if bool(knowledge) == (store is not None):
        raise ValueError("name the knowledge: either --knowledge FILE, or --store FOLDER.")
    if document and store is None:
        raise ValueError(f"--document {document[0]!r} is in a store; name the store with --store FOLDER.")
    for path in knowledge:
        if not path.exists():
            raise FileNotFoundError(f"no knowledge at {str(path)!r}; expected a file or a folder of documents.")
    if store is not None:
        check_store(store)


@contextmanager
def _open_store(
    model: DiekaeModel, knowledge: list[Path], folder: Path | None, embedder: str | None
) -> Iterator[KnowledgeStore]:
    """Open the store in a folder, or a temporary one of the files."""
    if folder is not None:
        yield KnowledgeStore(folder, model, embedder=embedder)
        return
    with tempfile.TemporaryDirectory() as temporary:
        store = KnowledgeStore(temporary, model, embedder=embedder)
        with progress_bars() as (show, _):
            result = store.add(list(knowledge), progress=show)
        print_unread(result)
        yield store
        store.close()


class _Shown:
    """Shows an answer at a terminal while it is generated; elsewhere it is printed in one piece."""

    def __init__(self, question: str) -> None:
        self.question, self.wanted, self.begun = question, console.is_terminal, False

    def __call__(self, text: str) -> None:
        """Print more of the answer, below its question."""
        self.begin()
        console.print(text, end="", highlight=False, markup=False, soft_wrap=True)

    def begin(self) -> None:
        """Print the question, once."""
        if not self.begun:
            self.begun = True
            console.print(f"[bold]{escape(self.question)}[/]", highlight=False)


def _print_answer(answer: Answer, shown: _Shown) -> None:
    """Print an answer, unless it was shown, and the passages that were read."""
    text = "" if shown.begun else answer.text
    shown.begin()
    confidence = f"{answer.confidence:.0%} sure that the documents answer this, {answer.seconds:.1f} s"
    if answer.answered:
        console.print(escape(text), highlight=False)
        console.print(f"[dim]{confidence}[/]", highlight=False)
    else:
        console.print(f"[yellow]Not in your documents[/] [dim]({confidence})[/]", highlight=False)
        if answer.bare:
            console.print(f"[dim]without them:[/] {escape(answer.bare)}", highlight=False)
    for source in answer.sources:
        panel = Panel(_highlighted(source, answer), title=_source_title(source), title_align="left", border_style="dim")
        console.print(panel)


def _source_title(source: Source) -> str:
    heading = f", {source.heading}" if source.heading and source.heading != source.title else ""
    share = "" if source.share is None else f"{source.share:.0%} of the attention: "
    return share + escape(printable_name(source.title + heading))


def _highlighted(source: Source, answer: Answer) -> str:
    """Return a passage with those words of the answer in bold that are not in the question."""
    wanted = set(query_words(answer.text)) - set(normalized_words(answer.question)) if answer.answered else set()
    text = source.text if len(source.text) <= LONGEST_PASSAGE else source.text[: LONGEST_PASSAGE - 1] + "…"
    text = printable(text)  # here already, so that the panel's frame fits
    return " ".join(
        f"[bold]{escape(word)}[/]" if wanted & set(normalized_words(word)) else escape(word) for word in text.split(" ")
    )
