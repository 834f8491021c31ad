"""`diekae evaluate`: how much of the gap a bank closes on a file of examples."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from diekae.cli.console import (
    SHIPPED,
    AnyBankOption,
    DecoderOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    MaxKnowledgeOption,
    OwnFormatOption,
    chosen_bank,
    console,
    figures,
    load_model,
    progress_bars,
    times,
    write_figures,
)
from diekae.cli.output import printable_name
from diekae.config import Scope
from diekae.data import read_examples
from diekae.data.prompt import truncate_knowledge
from diekae.evaluation import evaluate
from diekae.evaluation.answers import score_answers
from diekae.fingerprint import window
from diekae.provenance import name_of, write_json


def command(
    data: Annotated[list[Path], typer.Option(help="Examples (JSONL); may be repeated.")],
    decoder: DecoderOption = None,
    bank: AnyBankOption = None,
    scope: Annotated[
        Scope | None, typer.Option(help="Positions that read K: prompt or all; by default the bank's own.")
    ] = None,
    format: OwnFormatOption = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first examples of each file.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Examples of one pass.")] = 16,
    max_knowledge: MaxKnowledgeOption = None,
    answers: Annotated[bool, typer.Option(help="Also answer greedily, and compare with the target.")] = False,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    json: JsonOption = None,
) -> None:
    """Measure D(x), D(K,x) and ours on held-out examples: NLL, recovered, grounded, answers, and seconds of a pass."""
    bank = chosen_bank(bank, decoder, SHIPPED)
    files = {path: read_examples(path, limit) for path in data}
    model = load_model(bank, device, dtype, decoder=decoder)
    if scope is not None:
        model.config = dataclasses.replace(model.config, scope=scope)
    prompter, sets = model.need_prompter(), dict[str, dict[str, Any]]()
    with progress_bars() as (show, _):
        for path, examples in files.items():
            name = path.name if path.name not in sets else str(path)
            prompts = [prompter.prompt(example, format) for example in examples]

            def progress(what: str, done: int, total: int, name: str = name) -> None:
                show(f"{name}: {what}", done, total)

            sets[name] = evaluate(model, prompts, batch_size=batch_size, max_knowledge=max_knowledge, progress=progress)
            if answers:
                prompts = truncate_knowledge(prompts, max_knowledge, window(model.decoder))
                sets[name]["answers"] = score_answers(model, prompts, batch_size, progress)
    settings: dict[str, str] = {"scope": model.config.scope, "format": format or model.config.format}
    settings["dtype"] = name_of(model.decoder.dtype)
    write_figures(json, {"config": model.config.to_dict(), **settings, "limit": limit, "sets": sets}, write_json)
    console.print(figures(sets, decoder or str(bank)))
    if answers:
        console.print(_answer_table(sets))
    for measured in sets.values():
        console.print(times(measured["seconds"]))


def _answer_table(sets: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return a table of the scores of greedy answers."""
    table = Table(title="greedy answers, exact match / token F1 in %", title_justify="left")
    for name in ("data", "D(x)", "D(K,x)", "ours"):
        table.add_column(name, justify="left" if name == "data" else "right")
    for name, measured in sets.items():
        cells = [f"{100 * score['exact']:.0f} / {100 * score['f1']:.0f}" for score in measured["answers"].values()]
        table.add_row(escape(printable_name(name)), *cells)
    return table
