"""`diekae-research edit evaluate` and `diekae-research edit train`: measurement of edits, and training for them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from diekae.cli.console import (
    SHIPPED,
    BankOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    PlotOption,
    SeedOption,
    console,
    load_model,
    print_text,
    progress_bars,
)
from diekae.cli.edit import TrainedOption
from diekae.cli.output import printable_name
from diekae.edit.trained_parts import find_trained, load_trained
from diekae.evaluation.plots import check_kind, save_figure
from diekae_research.editing.evaluate import PARTS, EditingPlan, evaluate_edits
from diekae_research.editing.plots import draw_growth
from diekae_research.editing.training import PARTS as TRAINED_PARTS
from diekae_research.editing.training import TrainingSizes, train_editing
from diekae_research.provenance import name_of, write_json

DataOption = Annotated[Path, typer.Option(help="Folder with counterfact, zsre and natural_questions.")]


group = typer.Typer(help="Train for editing, and measure edits against other methods.", no_args_is_help=True)


@group.command()
def evaluate(
    data: DataOption,
    out: Annotated[Path, typer.Option(help="Folder of measurements; an interrupted run continues from them.")],
    bank: BankOption = SHIPPED,
    trained: TrainedOption = None,
    part: Annotated[list[str] | None, typer.Option(help=f"{', '.join(PARTS)}; all by default.")] = None,
    cases: Annotated[int, typer.Option(min=1, help="Reported cases of CounterFact.")] = EditingPlan.cases,
    few: Annotated[
        int, typer.Option(min=1, help="The first of them, for methods that are trained on the edits.")
    ] = EditingPlan.few,
    size: Annotated[list[int] | None, typer.Option(min=1, help="Edits at once; may be repeated.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="Methods that are compared; may be repeated.")] = None,
    neighbours: Annotated[int, typer.Option(min=0, help="Neighbourhood prompts a case.")] = EditingPlan.neighbours,
    unrelated: Annotated[int, typer.Option(min=0, help="Unrelated texts.")] = EditingPlan.unrelated,
    seed: SeedOption = EditingPlan.seed,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    json: JsonOption = None,
    plot: PlotOption = None,
) -> None:
    """Measure edits on CounterFact and zsRE: success, neighbours, what is generated, drift, growth and chains."""
    if plot is not None:
        check_kind(plot)
    sizes, methods = tuple(size or EditingPlan.sizes), tuple(method or EditingPlan.methods)
    plan = EditingPlan(data, out, cases, few, sizes, methods, neighbours=neighbours, unrelated=unrelated, seed=seed)
    model = load_model(bank, device, dtype)
    loaded = find_trained(model) if trained is None else load_trained(trained, model)
    with progress_bars() as (show, _):
        figures = evaluate_edits(model, loaded, plan, part or PARTS, show)
    if json is not None:  # before anything is printed, because printing may fail
        write_json(json, {"dtype": name_of(model.decoder.dtype), **figures})
        print_text(f"figures: {printable_name(json)}")
    if plot is not None and "growth" in figures:
        save_figure(draw_growth(figures["growth"]), plot)
        print_text(f"plot: {printable_name(plot)}")
    for name in ("few", "many"):
        if "methods" in figures:
            console.print(_table(figures["methods"][name], f"CounterFact, edits at once: {name}"))


@group.command()
def train(
    data: DataOption,
    out: Annotated[Path, typer.Option(help="Checkpoints, and at the end editing.safetensors.")],
    bank: BankOption = SHIPPED,
    part: Annotated[list[str] | None, typer.Option(help="adapter or gate; both by default.")] = None,
    gate_facts: Annotated[int, typer.Option(min=1, help="Facts that the gate learns from.")] = TrainingSizes.gate_facts,
    gate_steps: Annotated[int, typer.Option(min=1, help="Steps of the gate.")] = TrainingSizes.gate_steps,
    adapter_facts: Annotated[
        int, typer.Option(min=1, help="Facts that the adapter learns from.")
    ] = TrainingSizes.adapter_facts,
    adapter_steps: Annotated[int, typer.Option(min=1, help="Steps of the adapter.")] = TrainingSizes.adapter_steps,
    seed: SeedOption = 0,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    json: JsonOption = None,
) -> None:
    """Train a bank's gate and edit adapter, once, on facts of CounterFact and zsRE that are never reported."""
    model = load_model(bank, device, dtype)
    sizes = TrainingSizes(gate_facts, gate_steps, adapter_facts, adapter_steps)
    with progress_bars() as (show, _):
        path, log = train_editing(model, data, out, sizes, part or TRAINED_PARTS, seed=seed, progress=show)
    if json is not None:
        write_json(json, {"dtype": name_of(model.decoder.dtype), **log})
    print_text(f"trained: {printable_name(path)}; --trained {printable_name(path)} uses it")


def _table(rows: dict[str, Any], title: str) -> Table:
    table = Table(title=title, title_justify="left")
    names = {"es": "ES", "ps": "PS", "ns": "NS", "generated": "generated", "generated_ps": "paraphrase"}
    names["unchanged"] = "same"
    for name in ("method", "n", *names.values(), "S", "KL", "ppl"):
        table.add_column(name, justify="left" if name == "method" else "right")
    for method, row in rows.items():
        values = [f"{row[name]['value']:.1f}" if row.get(name) else "–" for name in names]
        rest = [f"{row['s']:.1f}" if row["s"] is not None else "–", f"{row['drift']:.4f}"]
        table.add_row(method, str(row["n"]), *values, *rest, f"{row['perplexity']:.2f}")
    table.caption = "per cent; KL to D(x) and perplexity on unrelated text, nats a token"
    return table
