"""`diekae-research bench`: the cost of knowledge, as ratios within one run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.markup import escape
from rich.table import Table

from diekae.cli.console import (
    DeviceOption,
    DtypeOption,
    JsonOption,
    PlotOption,
    SeedOption,
    console,
    device_of,
    dtype_of,
    print_text,
    progress_bars,
)
from diekae.cli.output import printable_name
from diekae.evaluation.plots import check_kind, save_figure
from diekae.models import load_decoder
from diekae_research.bench import BENCHMARKS, Bench, run_benchmark
from diekae_research.bench.plots import draw_growth
from diekae_research.provenance import write_json

_DEFAULT = Bench.lengths


def command(
    name: Annotated[str, typer.Argument(help=f"{', '.join(BENCHMARKS)}.")],
    decoder: Annotated[str, typer.Option(help="A decoder's name or folder.")] = "smollm2",
    lengths: Annotated[list[int], typer.Option(min=1, help="Tokens of K; may be repeated.")] = list(_DEFAULT),  # noqa: B006
    inputs: Annotated[int, typer.Option(min=1, help="Tokens of x.")] = Bench.inputs,
    bank: Annotated[
        Path | None, typer.Option(help="A bank of this decoder, a folder or a shipped one's name, to measure too.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Repetitions; the ways are timed in turn.")] = Bench.rounds,
    threads: Annotated[
        int, typer.Option(min=1, help="Threads; with one, CPU seconds of this process are measured.")
    ] = 1,
    curves: Annotated[
        bool, typer.Option(help="Also measure how a pass grows with x, layers, batch and documents.")
    ] = True,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    seed: SeedOption = Bench.seed,
    json: JsonOption = None,
    plot: PlotOption = None,
) -> None:
    """Measure a benchmark: with knowledge against without, against K in the prompt, and against a cached prefix."""
    if name not in BENCHMARKS:
        raise ValueError(f"benchmark {name!r} is not known; choose one of {', '.join(BENCHMARKS)}.")
    kind, place = dtype_of(dtype), device_of(device)
    if plot is not None:
        check_kind(plot)
    torch.set_num_threads(threads)
    with console.status("loading the decoder"):
        model, _ = load_decoder(decoder, dtype=kind, device=place)
    with progress_bars() as (show, _):
        bench = Bench(model, {}, sorted(lengths), inputs, rounds, seed, curves, show, bank)
        figures = run_benchmark(name, bench)
    if json is not None:  # before anything is printed, because printing may fail
        write_json(json, figures)
        print_text(f"figures: {printable_name(json)}")
    if plot is not None and figures.get("curves"):
        save_figure(draw_growth(figures), plot)
        print_text(f"plot: {printable_name(plot)}")
    console.print(_table(figures))


def _table(figures: dict[str, Any]) -> Table:
    """Return the rows as a table."""
    table = Table(
        title=escape(f"{figures['benchmark']}, {figures['decoder']} in {figures['dtype']}"), title_justify="left"
    )
    for column in ("", "aim", "measured", "floor"):
        table.add_column(column, justify="right" if column else "left")
    for row in figures["rows"]:
        mark = {True: "[green]", False: "[red]", None: ""}[row["reached"]]
        aim = "" if row["aim"] is None else f"{'≥' if row['at_least'] else '≤'} {row['aim']:.3g}"
        figure = "not measured" if row["figure"] is None else f"{mark}{row['figure']:.3g}"
        table.add_row(row["name"], aim, figure, "" if row["floor"] is None else f"{row['floor']:.3g}")
    return table
