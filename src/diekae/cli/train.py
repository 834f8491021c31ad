"""`diekae train`: a recipe in, a bank and its figures out."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from diekae.cli.console import console, device_of, figures, progress_bars
from diekae.provenance import write_json
from diekae.recipe import read_recipe, run_recipe
from diekae.report import write_report
from diekae.training.run import processes


def command(
    recipe: Annotated[Path, typer.Argument(help="A recipe (TOML); see recipes/.")],
    set: Annotated[list[str] | None, typer.Option(help="Change a key: training.epochs=3. May be repeated.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the run; runs/NAME by default.")] = None,
    device: Annotated[
        str | None, typer.Option(help="Where it runs: cpu, cuda, cuda:N, or auto; as the recipe says by default.")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the last checkpoint.")] = False,
    json: Annotated[Path | None, typer.Option(help="Where the figures go; result.json in the run's folder.")] = None,
) -> None:
    """Train a bank as a recipe says, and measure it on held-out data."""
    plan = read_recipe(recipe, set or [])
    plan = dataclasses.replace(plan, device=device or plan.device)
    device_of(plan.device)
    folder = out or Path("runs") / plan.name
    if not resume and list(folder.rglob("checkpoint-*")):
        raise ValueError(
            f"{str(folder)!r} holds an earlier run's checkpoints; go on with --resume, or choose another --out."
        )
    with progress_bars() as (show, bar):
        model, result = run_recipe(plan, folder, resume=resume, progress=show, callbacks=[bar])
    processes().destroy_process_group()  # left to the interpreter's end, gloo's threads may abort the process
    if not result:  # another process measures and writes
        return
    model.print_trainable_parameters()
    target = json or folder / "result.json"
    write_json(target, result)
    report = write_report(folder / "report.html", result)
    console.print(figures(result["sets"], plan.name))
    console.print(f"bank: {folder / 'bank'}\nfigures: {target}\nreport: {report}", highlight=False)
