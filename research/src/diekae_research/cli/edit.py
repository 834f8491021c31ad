"""`diekae-research edit evaluate` and `diekae-research edit train`: what editing is measured with, and what it has learned."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from diekae.cli.console import SHIPPED, BankOption, DeviceOption, DtypeOption, console, load_model, progress_bars
from diekae.cli.edit import TrainedOption
from diekae.edit.trained import find_trained, load_trained
from diekae.evaluation.plots import check_kind, save_figure
from diekae_research.editing.evaluate import PARTS, Plan, evaluate_edits
from diekae_research.editing.plots import draw_growth
from diekae_research.editing.training import PARTS as TRAINED_PARTS
from diekae_research.editing.training import Sizes, train_editing
from diekae_research.provenance import name_of, write_json

DataOption = Annotated[Path, typer.Option(help="Folder with counterfact, zsre and natural_questions.")]


group = typer.Typer(help="Train for editing, and measure edits against other methods.", no_args_is_help=True)


@group.command()
def evaluate(
    data: DataOption,
    out: Annotated[Path, typer.Option(help="What is measured is kept here; a run that was cut off goes on.")],
    bank: BankOption = SHIPPED,
    trained: TrainedOption = None,
    part: Annotated[list[str] | None, typer.Option(help=f"{', '.join(PARTS)}; all by default.")] = None,
    cases: Annotated[int, typer.Option(min=1, help="Reported cases of CounterFact.")] = Plan.cases,
    few: Annotated[int, typer.Option(min=1, help="Of these, for methods that are trained on the edits.")] = Plan.few,
    size: Annotated[list[int] | None, typer.Option(help="Edits at once; may be repeated.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="What stands side by side; may be repeated.")] = None,
    neighbours: Annotated[int, typer.Option(help="Neighbourhood prompts a case.")] = Plan.neighbours,
    unrelated: Annotated[int, typer.Option(help="Unrelated texts.")] = Plan.unrelated,
    seed: Annotated[int, typer.Option(help="Decides which cases.")] = Plan.seed,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    json: Annotated[Path | None, typer.Option(help="Where the figures go.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Where the plot of growth goes (.png, .svg or .pdf).")] = None,
) -> None:
    """Measure edits on CounterFact and zsRE: success, neighbours, what is generated, drift, growth and chains."""
    if plot is not None:
        check_kind(plot)
    sizes, methods = tuple(size or Plan.sizes), tuple(method or Plan.methods)
    plan = Plan(data, out, cases, few, sizes, methods, neighbours=neighbours, unrelated=unrelated, seed=seed)
    model = load_model(bank, device, dtype)
    known = find_trained(model) if trained is None else load_trained(trained, model)
    with progress_bars() as (show, _):
        found = evaluate_edits(model, known, plan, part or PARTS, show)
    for name in ("few", "many"):
        if "methods" in found:
            console.print(_table(found["methods"][name], f"CounterFact, edits at once: {name}"))
    if json is not None:
        write_json(json, {"dtype": name_of(model.decoder.dtype), **found})
        console.print(f"figures: {json}", highlight=False)
    if plot is not None and "growth" in found:
        save_figure(draw_growth(found["growth"]), plot)
        console.print(f"plot: {plot}", highlight=False)


@group.command()
def train(
    data: DataOption,
    out: Annotated[Path, typer.Option(help="Checkpoints, and at the end editing.safetensors.")],
    bank: BankOption = SHIPPED,
    part: Annotated[list[str] | None, typer.Option(help="adapter or gate; both by default.")] = None,
    gate_facts: Annotated[int, typer.Option(help="Facts that the gate learns from.")] = Sizes.gate_facts,
    gate_steps: Annotated[int, typer.Option(help="Steps of the gate.")] = Sizes.gate_steps,
    adapter_facts: Annotated[int, typer.Option(help="Facts that the adapter learns from.")] = Sizes.adapter_facts,
    adapter_steps: Annotated[int, typer.Option(help="Steps of the adapter.")] = Sizes.adapter_steps,
    seed: Annotated[int, typer.Option(help="Decides facts, wordings and order.")] = 0,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    json: Annotated[Path | None, typer.Option(help="Where the log goes.")] = None,
) -> None:
    """Train a bank's gate and memory adapter, once; on facts of CounterFact and zsRE that are never reported."""
    model = load_model(bank, device, dtype)
    sizes = Sizes(gate_facts, gate_steps, adapter_facts, adapter_steps)
    with progress_bars() as (show, _):
        path, log = train_editing(model, data, out, sizes, part or TRAINED_PARTS, seed=seed, progress=show)
    console.print(f"trained: {path}; --trained {path} uses it", highlight=False)
    if json is not None:
        write_json(json, {"dtype": name_of(model.decoder.dtype), **log})


def _table(rows: dict[str, Any], title: str) -> Table:
    table = Table(title=title, title_justify="left")
    names = {"es": "ES", "ps": "PS", "ns": "NS", "generated": "generated", "generated_ps": "paraphrase"}
    names["unchanged"] = "same"
    for name in ("method", "n", *names.values(), "S", "KL", "ppl"):
        table.add_column(name, justify="left" if name == "method" else "right")
    for method, found in rows.items():
        values = [f"{found[name]['value']:.1f}" if found.get(name) else "–" for name in names]
        rest = [f"{found['s']:.1f}" if found["s"] is not None else "–", f"{found['drift']:.4f}"]
        table.add_row(method, str(found["n"]), *values, *rest, f"{found['perplexity']:.2f}")
    table.caption = "per cent; KL to D(x) and perplexity on unrelated text, nats a token"
    return table
