"""`diekae demo`: asks the shipped bank about a document, then trains another on fictional facts and measures it."""

from __future__ import annotations

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
from diekae.cli.console import EXACT, DeviceOption, console, device_of, figures, load_model, progress_bars, times
from diekae.model import DiekaeModel
from diekae.provenance import write_json
from diekae.recipe import make_recipe, run_recipe
from diekae.report import write_report
from diekae.store import KnowledgeStore

QUESTIONS = (
    "Who designed the Zorblax Tower?",
    "When was the Zorblax Tower completed?",
    "How tall is the Zorblax Tower?",
)


def command(
    out: Annotated[Path, typer.Option(help="Folder of the run; an earlier one is replaced.")] = Path("runs/demo"),
    steps: Annotated[int, typer.Option(help="Optimizer steps a stage; the recipe's by default.")] = -1,
    device: DeviceOption = "auto",
    json: Annotated[Path | None, typer.Option(help="Where the figures go; result.json in the folder.")] = None,
) -> None:
    """Ask the shipped bank; train one on fictional facts (a quarter of an hour on a slow core), measure and ask it."""
    device_of(device)
    source = files("diekae.demo")
    values = tomllib.loads(source.joinpath("demo.toml").read_text()) | {"folder": str(source)}
    if steps > 0:
        for stage in values["stage"]:
            stage["max_steps"] = steps
    document = source.joinpath("document.txt").read_text().strip()
    console.print(
        Panel(
            "A frozen SmolLM2-135M has a bank of small encoders beside it. They add to its hidden states what reading\n"
            "a document would have added, so it can be asked about documents that are not in its prompt.",
            title="diekae demo",
        )
    )
    if out.exists():
        _remove_run(out)
    shipped = load_model(EXACT, device, format="auto")
    console.print(Panel(document, title="a document that no bank has seen, and that is not in the prompt"))
    console.print(_from_store(shipped, document))
    console.print("Now a bank is trained, on documents about things that do not exist.")
    with progress_bars() as (show, bar):
        model, result = run_recipe(
            make_recipe(values),
            out,
            progress=show,
            callbacks=[bar],
            loaded=(shipped.decoder, shipped.tokenizer),
        )
    answers = _ask(model, document)
    result |= {"answers": answers, "document": document}
    target = json or out / "result.json"
    write_json(target, result)
    report = write_report(out / "report.html", result)
    console.print(figures(result["sets"], "held-out fictional facts"))
    console.print(times(next(iter(result["sets"].values()))["seconds"]))
    console.print(_table(answers, "the bank of this run"))
    console.print(f"bank: {out / 'bank'}\nfigures: {target}\nreport: {report} (open it in a browser)", highlight=False)
    console.print(
        f'try: diekae ask --bank {out / "bank"} --format qa --knowledge FILE "your question"',
        highlight=False,
        markup=False,
    )


def _from_store(model: DiekaeModel, document: str) -> Table:
    """Ask as `diekae ask` does: the document lies in a store, and the decoder's own attention reads its passages."""
    table = Table(
        *("question", "without knowledge", "with knowledge", "read from", "sure"),
        title="read by the decoder's own attention, without any training",
        title_justify="left",
    )
    with tempfile.TemporaryDirectory() as folder:
        store = KnowledgeStore(folder, model)
        store.add(document)
        for question in QUESTIONS:
            answer = ask(model, question, store, max_new_tokens=24)
            bare = reply(model, question, max_new_tokens=24)
            words = " ".join(answer.sources[0].text.split()[:6]) + " …"
            said = f"[bold]{escape(answer.text)}[/]" if answer.answered else "not in the document"
            table.add_row(question, escape(bare), said, escape(words), f"{answer.confidence:.0%}")
        tokens = len(store.prepared(*store.add(document).ids))
        table.caption = f"the document has {tokens} tokens, read once; a prompt would hold them for every question"
        store.close()
    return table


def _ask(model: DiekaeModel, document: str) -> list[dict[str, str]]:
    """Ask about the document, with it and without."""
    prepared = model.prepare(document)
    return [
        {
            "question": q,
            "without": reply(model, q, None, max_new_tokens=24),
            "with": reply(model, q, prepared, max_new_tokens=24),
        }
        for q in QUESTIONS
    ]


def _table(answers: Sequence[Mapping[str, str]], title: str) -> Table:
    table = Table("question", "without knowledge", "with knowledge", title=title, title_justify="left")
    for row in answers:
        table.add_row(row["question"], escape(row["without"]), f"[bold]{escape(row['with'])}[/]")
    return table


def _remove_run(folder: Path) -> None:
    """Remove an earlier run.

    Raises:
        ValueError: The folder holds something that no run writes: it may be somebody's home.
    """
    written = ("bank", "tensorboard", "[1-9]-*", "result.json", "report.html")
    foreign = [path.name for path in folder.iterdir() if not any(path.match(pattern) for pattern in written)]
    if foreign:
        raise ValueError(f"{str(folder)!r} holds {foreign[0]!r}, which no run wrote; choose another --out.")
    shutil.rmtree(folder)
