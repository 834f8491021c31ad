"""`diekae-research documents`: answers from a store of ordinary documents."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer

from diekae.answering.answer import PASSAGES
from diekae.cli.console import (
    DeviceOption,
    DtypeOption,
    EmbedderOption,
    JsonOption,
    load_model,
    print_text,
    progress_bars,
    write_figures,
)
from diekae.data import read_examples
from diekae.data.example import Example
from diekae.model import DiekaeModel
from diekae.models import resolve_dtype
from diekae.progress import Progress
from diekae.store import KnowledgeStore
from diekae.store.embedders import Embedder, make_embedder
from diekae_research.cli.choices import chosen
from diekae_research.documents.calibration import calibrate as calibrate_confidence
from diekae_research.documents.measure import StoreWay, fill_store, measure_documents, texts_of
from diekae_research.provenance import write_json


def command(
    context: typer.Context,
    decoder: Annotated[str, typer.Option(help="A decoder's name or folder.")] = "smollm2",
    bank: Annotated[
        str | None, typer.Option(help="A bank's folder, or the name of a shipped one; without it K is read exactly.")
    ] = None,
    format: Annotated[Literal["qa", "chat"], typer.Option(help="Text around a question.")] = "chat",
    split: Annotated[Literal["development", "test"], typer.Option(help="Half of the documents that is used.")] = "test",
    ways: Annotated[
        list[str] | None, typer.Option(help=f"{', '.join(get_args(StoreWay))}; all by default; may be repeated.")
    ] = None,
    passages: Annotated[int, typer.Option(min=1, help="Passages that are read.")] = PASSAGES,
    limit: Annotated[
        int | None, typer.Option(min=1, help="How many questions to draw, with a fixed seed; all by default.")
    ] = None,
    more: Annotated[
        Path | None, typer.Option(help="Examples (JSONL) whose texts are added to the store, to make search harder.")
    ] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Only fit the confidence on the development questions.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="With --calibrate: also fit the confidence of what is read, into this file.")
    ] = None,
    search_only: Annotated[
        bool, typer.Option("--search-only", help="Only measure the search and the confidence, without answers.")
    ] = False,
    embedder: EmbedderOption = None,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    json: JsonOption = None,
) -> None:
    """Answer questions from a store of ordinary documents: right, wrong and empty answers by kind of question.

    `ours` finds and reads passages as `diekae ask` does; `bare` knows nothing; `prompt` has the same passages in its
    prompt; `whole` and `prompt_whole` read all of the right document, injected and in the prompt.
    """
    chosen_ways = [] if search_only else chosen("ways", ways, StoreWay)
    examples = [] if more is None else read_examples(more)
    model = load_model(Path(bank or ""), device, dtype, format, decoder=None if bank else decoder)
    opened_embedder = make_embedder(embedder, model.device)
    measure = partial(_measure, split=split, ways=chosen_ways, passages=passages, limit=limit)
    work = partial(calibrate_confidence, out=out) if calibrate else measure
    with progress_bars() as (show, _):
        figures = work(model, examples, opened_embedder, progress=show)
    settings = {"ways": chosen_ways, "embedder": opened_embedder.name or None}
    settings |= {"dtype": resolve_dtype(dtype, model.device)}
    write_figures(json, {"settings": {**_settings(context), **settings}, **figures}, write_json)
    for line in [str(figures)] if calibrate else _lines(figures):
        print_text(line)


def _settings(context: typer.Context) -> dict[str, Any]:
    """Return the options, without folders and files, which mean nothing on another machine."""
    settings = {name: value for name, value in context.params.items() if name not in ("json", "more", "out")}
    return {**settings, **{name: settings[name] and Path(settings[name]).name for name in ("decoder", "bank")}}


def _measure(
    model: DiekaeModel, examples: Sequence[Example], embedder: Embedder, progress: Progress, **options: Any
) -> dict[str, Any]:
    """Fill a store, also with the examples' texts, and measure it; options as for :func:`measure_documents`."""
    with tempfile.TemporaryDirectory() as folder:
        store = KnowledgeStore(folder, model, embedder=embedder)
        began = time.perf_counter()
        names = fill_store(store, texts_of(examples), progress)
        filled = time.perf_counter() - began
        try:
            figures = measure_documents(model, store, names, progress=progress, **options)
        finally:
            store.close()
    return {"fill_seconds": filled, **figures}


def _lines(figures: dict[str, Any]) -> list[str]:
    """Return the figures as lines of text."""
    lines = []
    for kind, row in figures["recall"].items():
        lines.append(f"{kind}: " + ", ".join(f"{name} {value:.2f}" for name, value in row.items()))
    lines.append(f"said not there: {figures['silence']}")
    lines.append(f"filled in {figures['fill_seconds']:.1f} s; search: {figures['search']}")
    for way, row in figures["ways"].items():
        kinds = ", ".join(f"{kind} {counts['right']}/{counts['n']}" for kind, counts in row["kinds"].items())
        low, high = row["interval"]
        part = f"{row['right']} of {row['n']} right ({low:.0%} to {high:.0%})"
        lines.append(f"{way}: {part}; {kinds}; {row['seconds']:.2f} s")
    if "first_token" in figures:
        lines.append(f"first token: {figures['first_token']}")
    if "same_words_whole" in figures:
        lines.append(f"whole: the same words as in the prompt in {figures['same_words_whole']:.0%} of the answers")
    return lines
