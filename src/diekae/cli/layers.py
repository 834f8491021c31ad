"""`diekae layers`: which layers of a decoder read the knowledge, from forward passes alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from diekae.cli.console import (
    DeviceOption,
    DtypeOption,
    check_choice,
    console,
    device_of,
    dtype_of,
    progress_bars,
    share,
)
from diekae.config import DiekaeConfig
from diekae.data import Example, load_source, read_examples
from diekae.data.example import check_split
from diekae.data.prompt import Prompter
from diekae.evaluation.layers import measure_layers
from diekae.evaluation.plots import check_kind, draw_layers, save_figure
from diekae.models import load_decoder
from diekae.provenance import write_json


def command(
    decoder: Annotated[str, typer.Option(help="A decoder's name or folder.")] = "smollm2",
    data: Annotated[Path | None, typer.Option(help="Examples with knowledge (JSONL).")] = None,
    source: Annotated[str | None, typer.Option(help="Or a data set, see `diekae-research data list`.")] = None,
    raw: Annotated[Path | None, typer.Option(help="Folder of the data set's upstream files.")] = None,
    split: Annotated[str, typer.Option(help="The data set's part; layers are a choice, so not test.")] = "validation",
    limit: Annotated[int, typer.Option(min=2, help="Examples; a half of them chooses, the other is reported.")] = 48,
    format: Annotated[str, typer.Option(help="plain, qa or chat.")] = "qa",
    choose: Annotated[int, typer.Option(help="Layers to choose.")] = 8,
    width: Annotated[int | None, typer.Option(help="Layers of a window; a fifth of the decoder by default.")] = None,
    max_knowledge: Annotated[int | None, typer.Option(help="Cut K to this many tokens.")] = None,
    seed: Annotated[int, typer.Option(help="Decides which examples of a data set.")] = 0,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    json: Annotated[Path | None, typer.Option(help="Where the figures go.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Where the plot goes (.png, .svg or .pdf).")] = None,
) -> None:
    """Measure in which layers a decoder reads its context, and choose the layers of a bank."""
    check_choice("format", format)
    kind, place = dtype_of(dtype), device_of(device)
    if plot is not None:
        check_kind(plot)
    examples = _examples(data, source, raw, split, limit, seed)
    with console.status("loading the decoder"):
        model, tokenizer = load_decoder(decoder, dtype=kind, device=place)
    prompter = Prompter(tokenizer, DiekaeConfig().template, format)
    with progress_bars() as (show, _):
        found = measure_layers(
            model,
            [prompter.prompt(example) for example in examples],
            choose=choose,
            width=width,
            max_knowledge=max_knowledge,
            progress=show,
        )
    console.print(_table(found, decoder))
    last = found["chosen"][-1]
    console.print(
        f"recommended: layers = {sorted(last['layers'])}\nWith K visible in these {choose} of "
        f"{len(found['hidden'])} layers alone, {share(last['recovered'])} of the gap is recovered on {found['n']} "
        f"examples that chose nothing ({share(found['chosen_on']['steps'][-1]['recovered'])} on the "
        f"{found['chosen_on']['n']} that chose the layers).",
        highlight=False,
        markup=False,
    )
    if json is not None:
        settings: dict[str, Any] = {"decoder": Path(decoder).name, "data": source or (data.name if data else None)}
        settings |= {"split": split if source else None, "limit": limit, "seed": seed if source else None}
        settings |= {"format": format, "max_knowledge": max_knowledge}
        write_json(json, {**settings, **found})
        console.print(f"figures: {json}", highlight=False)
    if plot is not None:
        save_figure(draw_layers(found), plot)
        console.print(f"plot: {plot}", highlight=False)


def _examples(
    data: Path | None, source: str | None, raw: Path | None, split: str, limit: int, seed: int
) -> list[Example]:
    """Read what is measured on: a file, or some of a data set.

    Raises:
        ValueError: Neither is named, or both are.
    """
    if (data is None) == (source is None):
        raise ValueError("name what to measure on: either --data FILE.jsonl, or --source NAME with --raw FOLDER.")
    if data is not None:
        return read_examples(data, limit)
    assert source is not None, "one of the two is named"
    return load_source(source, folder=raw, split=check_split(split), limit=limit, seed=seed)


def _table(found: dict[str, Any], decoder: str) -> Table:
    """Lay the sets, the windows, the layers that cost most when hidden, and the choice out as one table."""
    table = Table(
        title=f"where {decoder} reads, {found['n']} examples; layers chosen on {found['chosen_on']['n']} others",
        title_justify="left",
    )
    for name in ("K visible in", "nats a token", "recovered"):
        table.add_column(name, justify="left" if name == "K visible in" else "right")

    def rows(named: Sequence[tuple[str, dict[str, Any]]]) -> None:
        for name, entry in named:
            table.add_row(name, f"{entry['nll']:.3f}", share(entry["recovered"]))
        table.add_section()

    rows([(f"{name} ({layer_range(entry['layers'])})", entry) for name, entry in found["sets"].items()])
    rows([(layer_range(entry["layers"]), entry) for entry in found["windows"]])
    worst = sorted(found["hidden"], key=lambda entry: -float(entry["nll"]))[:5]
    rows([(f"all but {entry['layer']}", entry) for entry in worst])
    rows([(f"chosen: {', '.join(map(str, sorted(entry['layers'])))}", entry) for entry in found["chosen"]])
    gap = found["nll"]
    table.caption = (
        f"D(x) {gap['bare']:.3f}, D(K,x) {gap['prompted']:.3f} nats a target token; 'all but': the worst five"
    )
    return table


def layer_range(layers: Sequence[int]) -> str:
    """Write neighbouring layers as a range."""
    if not layers:
        return "–"
    if len(layers) > 2 and list(layers) == list(range(layers[0], layers[-1] + 1)):
        return f"{layers[0]}–{layers[-1]}"
    return ", ".join(map(str, layers))
