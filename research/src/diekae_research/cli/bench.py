"""`diekae-research bench`: the cost of knowledge, as ratios within one run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import torch
import typer

from diekae.cli.console import (
    DeviceOption,
    DtypeOption,
    JsonOption,
    SeedOption,
    console,
    device_of,
    print_text,
    progress_bars,
    write_figures,
)
from diekae.models import DTYPES, load_decoder
from diekae_research.bench import Bench, run_benchmark
from diekae_research.cli.summary import speed_table
from diekae_research.provenance import write_json

_DEFAULT = Bench.lengths


def command(
    name: Annotated[
        Literal["inference", "decode", "prepare", "train", "memory"], typer.Argument(help="What is measured.")
    ],
    decoder: Annotated[str, typer.Option(help="A decoder's name or folder.")] = "smollm2",
    lengths: Annotated[list[int], typer.Option(min=1, help="Tokens of K; may be repeated.")] = list(_DEFAULT),  # noqa: B006
    inputs: Annotated[int, typer.Option(min=1, help="Tokens of x.")] = Bench.inputs,
    bank: Annotated[
        Path | None,
        typer.Option(help="A bank of this decoder to measure too: its folder, or the name of a shipped one."),
    ] = None,
    anchor: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens that K and x begin with, such as a chat's header; by default the bank's."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Repetitions; the ways are timed in turn.")] = Bench.rounds,
    threads: Annotated[
        int, typer.Option(min=1, help="Threads. With one, the CPU seconds of this process are measured.")
    ] = 1,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    seed: SeedOption = Bench.seed,
    json: JsonOption = None,
) -> None:
    """Measure a benchmark: with knowledge against without, against K in the prompt, and against a cached prefix."""
    torch.set_num_threads(threads)
    with console.status("loading the decoder"):
        model, _ = load_decoder(decoder, dtype=DTYPES[dtype], device=device_of(device))
    with progress_bars() as (show, _):
        bench = Bench(model, {}, sorted(lengths), inputs, rounds, seed, show, bank, header=anchor)
        figures = run_benchmark(name, bench)
    write_figures(json, figures, write_json)
    print_text(f"{figures['benchmark']}, {figures['decoder']} in {figures['dtype']}\n\n{speed_table(figures['rows'])}")
