"""`diekae evaluate`: how much of the gap a bank closes on a file of examples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diekae.cli.console import SHIPPED, BankOption, check_choice, console, figures, progress_bars, times
from diekae.data import read_examples
from diekae.evaluation import evaluate
from diekae.model import DiekaeModel
from diekae.provenance import write_json


def command(
    data: Annotated[list[Path], typer.Option(help="Examples (JSONL); may be repeated.")],
    bank: BankOption = SHIPPED,
    scope: Annotated[str | None, typer.Option(help="prompt or all; the bank's own by default.")] = None,
    format: Annotated[str | None, typer.Option(help="plain, qa or chat; the bank's own by default.")] = None,
    limit: Annotated[int | None, typer.Option(help="Use only the first examples of each file.")] = None,
    batch_size: Annotated[int, typer.Option(help="Examples a pass.")] = 16,
    max_knowledge: Annotated[int | None, typer.Option(help="Cut K to this many tokens.")] = None,
    json: Annotated[Path | None, typer.Option(help="Where the figures go.")] = None,
) -> None:
    """Measure D(x), D(K,x) and ours on held-out examples: NLL, recovered, grounded, and seconds a pass."""
    check_choice("scope", scope)
    check_choice("format", format)
    files = {path: read_examples(path, limit) for path in data}
    with console.status("loading the bank and its decoder"):
        model = DiekaeModel.from_pretrained(bank)
    prompter, sets = model.need_prompter(), {}
    with progress_bars() as (show, _):
        for path, examples in files.items():
            name = path.name if path.name not in sets else str(path)
            sets[name] = evaluate(
                model,
                [prompter.prompt(example, format) for example in examples],
                scope=scope,
                batch_size=batch_size,
                max_knowledge=max_knowledge,
                progress=lambda how, done, total, name=name: show(f"{name}: {how}", done, total),  # type: ignore[misc]
            )
    console.print(figures(sets, str(bank)))
    for found in sets.values():
        console.print(times(found["seconds"]))
    if json is not None:
        settings = {"scope": scope or model.config.scope, "format": format or model.config.format}
        write_json(json, {"config": model.config.to_dict(), **settings, "limit": limit, "sets": sets})
        console.print(f"figures: {json}", highlight=False)
