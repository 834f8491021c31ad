"""`diekae layers`: which layers of a decoder read the knowledge; only forward passes, no training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from diekae.cli.console import (
    DeviceOption,
    DtypeOption,
    JsonOption,
    MaxKnowledgeOption,
    PlotOption,
    SeedOption,
    console,
    device_of,
    print_text,
    progress_bars,
    share,
    write_figures,
)
from diekae.cli.output import printable_name
from diekae.config import DiekaeConfig
from diekae.data import Example, load_source, read_examples
from diekae.data.example import Split
from diekae.data.formats import Format
from diekae.data.prompt import Prompter
from diekae.evaluation.layers import measure_layers
from diekae.evaluation.plots import check_kind, draw_layers, save_figure
from diekae.models import DTYPES, load_decoder
from diekae.provenance import write_json


def command(
    decoder: Annotated[str, typer.Option(help="A decoder's name or folder.")] = "smollm2",
    data: Annotated[Path | None, typer.Option(help="Examples with knowledge (JSONL).")] = None,
    source: Annotated[
        str | None, typer.Option(help="Instead of --data: a data set, see `diekae-research data list`.")
    ] = None,
    raw: Annotated[Path | None, typer.Option(help="Folder of the data set's upstream files.")] = None,
    split: Annotated[
        Split, typer.Option(help="Part of the data set. Do not choose by test, which is for reporting.")
    ] = "validation",
    limit: Annotated[
        int, typer.Option(min=2, help="Examples to use; one half chooses the layers, the other is reported.")
    ] = 48,
    format: Annotated[Format, typer.Option(help="Format of the prompt: plain, qa or chat.")] = "qa",
    choose: Annotated[int, typer.Option(min=1, help="How many layers to choose.")] = 8,
    width: Annotated[
        int | None,
        typer.Option(min=1, help="K is also shown to windows of this many layers; by default a fifth of all."),
    ] = None,
    max_knowledge: MaxKnowledgeOption = None,
    seed: SeedOption = 0,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    json: JsonOption = None,
    plot: PlotOption = None,
) -> None:
    """Measure in which layers a decoder reads its context, and choose the layers of a bank."""
    if plot is not None:
        check_kind(plot)
    examples = _examples(data, source, raw, split, limit, seed)
    with console.status("loading the decoder"):
        model, tokenizer = load_decoder(decoder, dtype=DTYPES[dtype], device=device_of(device))
    prompter = Prompter(tokenizer, DiekaeConfig().template, format)
    prompts = [prompter.prompt(example) for example in examples]
    with progress_bars() as (show, _):
        measured = measure_layers(
            model, prompts, choose=choose, width=width, max_knowledge=max_knowledge, progress=show
        )
    settings: dict[str, Any] = {"decoder": Path(decoder).name, "data": source or (data.name if data else None)}
    settings |= {"split": split if source else None, "limit": limit, "seed": seed if source else None}
    settings |= {"format": format, "max_knowledge": max_knowledge}
    write_figures(json, {**settings, **measured}, write_json)
    if plot is not None:
        save_figure(draw_layers(measured), plot)
        print_text(f"plot: {printable_name(plot)}")
    _print(measured, decoder)


def _examples(
    data: Path | None, source: str | None, raw: Path | None, split: Split, limit: int, seed: int
) -> list[Example]:
    """Read the examples of a file, or some of a data set: one of the two is named."""
    if (data is None) == (source is None):
        raise ValueError("name what to measure on: either --data FILE.jsonl, or --source NAME with --raw FOLDER.")
    if data is not None:
        return read_examples(data, limit)
    assert source is not None, "data or source is named"
    return load_source(source, folder=raw, split=split, limit=limit, seed=seed)


def _print(measured: dict[str, Any], decoder: str) -> None:
    """Print the table, and the recommended layers."""
    console.print(_table(measured, decoder))
    best, on_choosing = measured["chosen"][-1], measured["chosen_on"]
    console.print(
        f"recommended: layers = {sorted(best['layers'])}\nWith K visible in these {len(best['layers'])} of "
        f"{len(measured['hidden'])} layers alone, {share(best['recovered'])} of the gap is recovered on "
        f"{measured['n']} examples that chose nothing ({share(on_choosing['steps'][-1]['recovered'])} on the "
        f"{on_choosing['n']} that chose the layers).",
        highlight=False,
        markup=False,
    )


def _table(measured: dict[str, Any], decoder: str) -> Table:
    """Return one table of the sets, the windows, the layers that cost most when hidden, and the choice."""
    table = Table(
        title=f"where {escape(printable_name(decoder))} reads, {measured['n']} examples; "
        f"layers chosen on {measured['chosen_on']['n']} others",
        title_justify="left",
    )
    for name in ("K visible in", "nats a token", "recovered"):
        table.add_column(name, justify="left" if name == "K visible in" else "right")

    def add_section(named: Sequence[tuple[str, dict[str, Any]]]) -> None:
        for name, entry in named:
            table.add_row(name, f"{entry['nll']:.3f}", share(entry["recovered"]))
        table.add_section()

    add_section([(f"{name} ({layer_range(entry['layers'])})", entry) for name, entry in measured["sets"].items()])
    add_section([(layer_range(entry["layers"]), entry) for entry in measured["windows"]])
    worst = sorted(measured["hidden"], key=lambda entry: -float(entry["nll"]))[:5]
    add_section([(f"all but {entry['layer']}", entry) for entry in worst])
    add_section([(f"chosen: {', '.join(map(str, sorted(entry['layers'])))}", entry) for entry in measured["chosen"]])
    nll = measured["nll"]
    table.caption = (
        f"D(x) {nll['bare']:.3f}, D(K,x) {nll['prompted']:.3f} nats a target token; 'all but': the worst five"
    )
    return table


def layer_range(layers: Sequence[int]) -> str:
    """Write three or more neighbouring layers as a range, ``3–5``."""
    if not layers:
        return "–"
    if len(layers) > 2 and list(layers) == list(range(layers[0], layers[-1] + 1)):
        return f"{layers[0]}–{layers[-1]}"
    return ", ".join(map(str, layers))
