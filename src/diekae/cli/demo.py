"""`diekae demo`: ask a document with a bank that comes with the package; then train a bank, measure it and ask it."""

from __future__ import annotations

import shlex
import shutil
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from diekae.answering import ask, reply
from diekae.cli.console import (
    EXACT,
    DeviceOption,
    console,
    figures,
    load_model,
    print_text,
    progress_bars,
    times,
)
from diekae.cli.output import output_file, printable_name
from diekae.model import DiekaeModel
from diekae.provenance import write_json
from diekae.recipe import Recipe, make_recipe, run_recipe
from diekae.report import write_report
from diekae.store import KnowledgeStore

QUESTIONS = (
    "Who designed the Zorblax Tower?",
    "When was the Zorblax Tower completed?",
    "How tall is the Zorblax Tower?",
)
DATA = files("diekae.demo")
"""The folder of the recipe, the examples and the document."""
ANSWER_TOKENS = 24
"""Maximum length of an answer, in tokens."""
INTRODUCTION = """\
SmolLM2-135M is a small language model. Here it stays frozen: none of its weights change.
A bank of small encoders stands beside it. The encoders give the model what it would have read in a document,
so it can answer questions about the document without having it in the prompt."""


def command(
    out: Annotated[Path, typer.Option(help="Folder of the run; an earlier run in it is replaced.")] = Path("runs/demo"),
    steps: Annotated[
        int, typer.Option(min=-1, help="Optimizer steps of each training stage; -1 keeps the demo's own number.")
    ] = -1,
    device: DeviceOption = "auto",
    json: Annotated[
        Path | None,
        typer.Option(callback=output_file, help="File for the figures; result.json in the folder by default."),
    ] = None,
) -> None:
    """Ask a document, then train a bank and measure it (minutes on a CPU).

    First a document is asked with a bank that comes with the package, without training. Then a bank is trained on
    made-up facts, measured on facts that it has not seen, and asked about the same document. On a slow core the
    training takes a quarter of an hour.
    """
    if not steps:
        raise ValueError("--steps is 0; give a positive number, or -1 for the demo's own number.")
    document = DATA.joinpath("document.txt").read_text(encoding="utf-8").strip()
    console.print(Panel(INTRODUCTION, title="diekae demo"))
    if out.exists():
        _remove_run(out)
    untrained = load_model(EXACT, device, format="auto")
    console.print(Panel(document, title="The document: new to the model, and not in the prompt"))
    console.print(_ask_store(untrained, document))
    console.print("Now a bank is trained on short documents about things that do not exist.")
    with progress_bars() as (show, bar):
        model, result = run_recipe(
            _read_recipe(steps),
            out,
            progress=show,
            callbacks=[bar],
            loaded=(untrained.decoder, untrained.tokenizer),
        )
    answers = _ask(model, document)
    result |= {"answers": answers, "document": document}
    target = json or out / "result.json"
    write_json(target, result)
    report = write_report(out / "report.html", result)
    console.print(figures(result["sets"], "The trained bank on made-up facts that it has not seen"))
    console.print(times(next(iter(result["sets"].values()))["seconds"]))
    console.print(_answer_table(answers))
    for kind, path in (("bank", out / "bank"), ("figures", target), ("report", report)):
        print_text(f"{kind}: {printable_name(path)}")
    bank = shlex.quote(printable_name(out / "bank"))
    print_text(f'try: diekae ask --bank {bank} --format qa --knowledge FILE "your question"')


def _read_recipe(steps: int) -> Recipe:
    """Return the demo's recipe, with this number of steps in each stage if it is positive."""
    values = tomllib.loads(DATA.joinpath("demo.toml").read_text(encoding="utf-8")) | {"folder": str(DATA)}
    if steps > 0:
        for stage in values["stage"]:
            stage["max_steps"] = steps
    return make_recipe(values)


def _ask_store(model: DiekaeModel, document: str) -> Table:
    """Ask the questions as `diekae ask` does, and return a table of the answers."""
    table = Table(
        *("question", "answer without the document", "answer with the document", "passage that was read", "confidence"),
        title="Answers without any training",
        title_justify="left",
    )
    with tempfile.TemporaryDirectory() as folder:
        store = KnowledgeStore(folder, model)
        ids = store.add(document).ids
        for question in QUESTIONS:
            answer = ask(model, question, store, max_new_tokens=ANSWER_TOKENS)
            without = reply(model, question, max_new_tokens=ANSWER_TOKENS)
            passage = " ".join(answer.sources[0].text.split()[:6]) + " …"
            text = f"[bold]{escape(answer.text)}[/]" if answer.answered else "not in the document"
            table.add_row(question, escape(without), text, escape(passage), f"{answer.confidence:.0%}")
        tokens = len(store.prepared(*ids))
        table.caption = (
            f"The document has {tokens} tokens and was read once; a prompt would repeat them in each question."
        )
        store.close()
    return table


def _ask(model: DiekaeModel, document: str) -> list[dict[str, str]]:
    """Ask the questions with the document and without."""
    prepared = model.prepare(document)
    return [
        {
            "question": question,
            "without": reply(model, question, None, max_new_tokens=ANSWER_TOKENS),
            "with": reply(model, question, prepared, max_new_tokens=ANSWER_TOKENS),
        }
        for question in QUESTIONS
    ]


def _answer_table(answers: Sequence[Mapping[str, str]]) -> Table:
    """Return a table of the trained bank's answers."""
    table = Table(
        *("question", "answer without the document", "answer with the document"),
        title="Answers of the trained bank about the same document",
        title_justify="left",
    )
    for row in answers:
        table.add_row(row["question"], escape(row["without"]), f"[bold]{escape(row['with'])}[/]")
    return table


def _remove_run(folder: Path) -> None:
    """Remove an earlier run, unless the folder holds what no run writes: that may be somebody's own (ValueError)."""
    written = ("bank", "tensorboard", "[1-9]-*", "result.json", "report.html")
    foreign = [path.name for path in folder.iterdir() if not any(path.match(pattern) for pattern in written)]
    if foreign:
        raise ValueError(
            f"{str(folder)!r} holds {foreign[0]!r}, which no run wrote; nothing is removed; choose another --out."
        )
    shutil.rmtree(folder)
