"""`diekae train`: run a recipe, and write the bank and its figures."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from diekae.cli.console import console, device_of, figures, print_text, progress_bars
from diekae.cli.output import output_file, printable_name
from diekae.provenance import write_json
from diekae.recipe import read_recipe, run_recipe
from diekae.report import write_report
from diekae.training.run import processes


def command(
    recipe: Annotated[Path, typer.Argument(help="A recipe (TOML); see recipes/.")],
    set: Annotated[
        list[str] | None, typer.Option(help="Change a key of the recipe: training.epochs=3. May be repeated.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the run; runs/NAME by default.")] = None,
    device: Annotated[
        str | None, typer.Option(help="Where it runs: cpu, cuda, cuda:N, or auto; the recipe's by default.")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Continue from the last checkpoint.")] = False,
    json: Annotated[
        Path | None,
        typer.Option(callback=output_file, help="File for the figures; result.json in the run's folder by default."),
    ] = None,
) -> None:
    """Train a bank by a recipe, and measure it on held-out data."""
    plan = read_recipe(recipe, set or [])
    plan = dataclasses.replace(plan, device=device or plan.device)
    device_of(plan.device)
    folder = out or Path("runs") / plan.name
    if not resume and list(folder.rglob("checkpoint-*")):
        raise ValueError(
            f"{str(folder)!r} holds an earlier run's checkpoints; continue it with --resume, or choose another --out."
        )
    with progress_bars() as (show, bar):
        model, result = run_recipe(plan, folder, resume=resume, progress=show, callbacks=[bar])
    processes().destroy_process_group()  # at interpreter exit gloo's threads may abort the process
    if not result:  # the main process measures and writes
        return
    model.print_trainable_parameters()
    target = json or folder / "result.json"
    write_json(target, result)
    report = write_report(folder / "report.html", result)
    console.print(figures(result["sets"], plan.name))
    for kind, path in (("bank", folder / "bank"), ("figures", target), ("report", report)):
        print_text(f"{kind}: {printable_name(path)}")
