"""`diekae-research edit evaluate` and `diekae-research edit train`: measurement of edits, and training for them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diekae.cli.console import (
    SHIPPED,
    AnyBankOption,
    BankOption,
    DecoderOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    SeedOption,
    chosen_bank,
    load_model,
    print_text,
    progress_bars,
    write_figures,
)
from diekae.cli.edit import TrainedOption
from diekae.cli.output import printable_name
from diekae.edit.trained_parts import find_trained, load_trained
from diekae_research.cli import summary
from diekae_research.editing.evaluate import PARTS, EditingPlan, evaluate_edits
from diekae_research.editing.training import TrainingSizes, train_editing
from diekae_research.provenance import name_of, write_json

DataOption = Annotated[Path, typer.Option(help="Folder with counterfact, zsre and natural_questions.")]


group = typer.Typer(
    help="Train for editing, and measure edits against other methods.", no_args_is_help=True, add_completion=False
)


@group.command()
def evaluate(
    data: DataOption,
    out: Annotated[Path, typer.Option(help="Folder of measurements; an interrupted run continues from them.")],
    bank: AnyBankOption = None,
    decoder: DecoderOption = None,
    trained: TrainedOption = None,
    part: Annotated[list[str] | None, typer.Option(help=f"{', '.join(PARTS)}; all by default.")] = None,
    cases: Annotated[int, typer.Option(min=1, help="Reported cases of CounterFact.")] = EditingPlan.cases,
    few: Annotated[
        int, typer.Option(min=1, help="How many of these, from the first on, are also measured with D(K,x).")
    ] = EditingPlan.few,
    neighbours: Annotated[
        int, typer.Option(min=0, help="Neighbourhood prompts of each case.")
    ] = EditingPlan.neighbours,
    unrelated: Annotated[int, typer.Option(min=0, help="Texts that no edit is about.")] = EditingPlan.unrelated,
    seed: SeedOption = EditingPlan.seed,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    json: JsonOption = None,
) -> None:
    """Measure edits on CounterFact: success, neighbours, what is generated, drift, and when gates open."""
    plan = EditingPlan(data, out, cases, few, neighbours, unrelated, seed)
    # The format of the shipped bank, so that decoders are measured alike.
    model = load_model(chosen_bank(bank, decoder, SHIPPED), device, dtype, "qa", decoder=decoder)
    loaded = find_trained(model) if trained is None else load_trained(trained, model)
    with progress_bars() as (show, _):
        figures = evaluate_edits(model, loaded, plan, part or PARTS, show)
    write_figures(json, {"dtype": name_of(model.decoder.dtype), **figures}, write_json)
    for table in summary.editing_tables("CounterFact", figures):
        print_text(table)


@group.command()
def train(
    data: DataOption,
    out: Annotated[Path, typer.Option(help="Folder for checkpoints, and at the end editing.safetensors.")],
    bank: BankOption = SHIPPED,
    seed: SeedOption = 0,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    json: JsonOption = None,
) -> None:
    """Train a bank's gate and edit adapter, once, on facts of CounterFact and zsRE that are never reported."""
    model = load_model(bank, device, dtype)
    with progress_bars() as (show, _):
        path, log = train_editing(model, data, out, TrainingSizes(), seed=seed, progress=show)
    write_figures(json, {"dtype": name_of(model.decoder.dtype), **log}, write_json)
    print_text(f"trained: {printable_name(path)}; --trained {printable_name(path)} uses it")
