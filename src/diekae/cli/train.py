"""`diekae train`: train a bank by a recipe, or for a decoder and a folder of documents."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from diekae.cli.console import (
    DtypeOption,
    SeedOption,
    checked_device,
    console,
    device_of,
    figures,
    print_text,
    progress_bars,
    share,
)
from diekae.cli.output import output_file, printable_name
from diekae.hub import write_card
from diekae.models import DTYPES, load_decoder
from diekae.provenance import write_json
from diekae.recipe import Recipe, read_recipe, run_recipe
from diekae.report import write_report
from diekae.study import StudyOptions, run_study
from diekae.training.run import leave_processes

_STUDY_OPTIONS = ("documents", "minutes", "layers", "bytes_per_token", "questions", "batch_size", "seed", "dtype")
"""Options that a recipe has in its own keys."""


def command(
    context: typer.Context,
    recipe: Annotated[Path | None, typer.Argument(help="A recipe (TOML); not with --decoder.")] = None,
    set: Annotated[
        list[str] | None, typer.Option(help="Change a key of the recipe: training.epochs=3. May be repeated.")
    ] = None,
    decoder: Annotated[str | None, typer.Option(help="Instead of a recipe: a decoder's name or folder.")] = None,
    documents: Annotated[Path | None, typer.Option(help="Folder of your documents; by default the package's.")] = None,
    minutes: Annotated[float, typer.Option(min=0.1, help="About how many minutes to take.")] = StudyOptions.minutes,
    layers: Annotated[int | None, typer.Option(min=1, help="How many layers read K; by default four fifths.")] = None,
    bytes_per_token: Annotated[
        int | None, typer.Option(min=1, help="Instead of --layers: most bytes of prepared knowledge for a token of K.")
    ] = None,
    questions: Annotated[int, typer.Option(min=8, help="Most questions to train on.")] = StudyOptions.questions,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions in each step.")] = StudyOptions.batch_size,
    seed: SeedOption = StudyOptions.seed,
    out: Annotated[Path | None, typer.Option(help="Folder for the run; runs/NAME by default.")] = None,
    dtype: DtypeOption = "auto",
    device: Annotated[
        str | None,
        typer.Option(
            callback=checked_device, help="Where to run: cpu, cuda, cuda:N, or auto; by default the recipe's."
        ),
    ] = None,
    resume: Annotated[bool, typer.Option(help="Continue from the last checkpoint.")] = False,
    json: Annotated[
        Path | None,
        typer.Option(callback=output_file, help="File for the figures; result.json in the run's folder by default."),
    ] = None,
) -> None:
    """Train a bank from a recipe or from your documents, and measure it on held-out data.

    Give a recipe, and change its keys with --set; or give --decoder, with the options from --documents to --seed.
    """
    if (recipe is None) == (decoder is None):
        raise ValueError("give either a recipe, or --decoder (and --documents).")
    _check_options(context, by_recipe=recipe is not None)
    if recipe is not None:
        plan = read_recipe(recipe, set or [])
        name = plan.decoder
        folder, result = _by_recipe(plan, out, device, resume)
    else:
        assert decoder is not None
        name = decoder
        options = StudyOptions(minutes, layers, bytes_per_token, questions, batch_size, seed)
        folder, result = _by_study(decoder, documents, options, out, dtype, device or "auto", resume)
    leave_processes()
    if result:  # the main process measures and writes
        _show(result, name, folder, json or folder / "result.json")


def _check_options(context: typer.Context, by_recipe: bool) -> None:
    """Check that no option is given that would have no effect.

    Raises:
        ValueError: One is.
    """
    for name in _STUDY_OPTIONS if by_recipe else ("set",):
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = f"--{name.replace('_', '-')}"
            if by_recipe:
                raise ValueError(f"{option} is for --decoder; with a recipe, change its keys: --set KEY=VALUE.")
            raise ValueError(f"{option} is for a recipe; --decoder has options instead, see `diekae train --help`.")


def _show(result: dict[str, Any], decoder: str, folder: Path, target: Path) -> None:
    """Write the figures, the bank's card and the report, and print what matters."""
    write_json(target, result)
    card = write_card(folder / "bank", result, decoder)
    report = write_report(folder / "report.html", result)
    console.print(figures(result["sets"], folder.name))
    if "study" in result:
        console.print(_comparison(result))
        print_text(f"{result['minutes']:.1f} minutes in all")
    for kind, path in (("bank", folder / "bank"), ("card", card), ("figures", target), ("report", report)):
        print_text(f"{kind}: {printable_name(path)}")


def _comparison(result: dict[str, Any]) -> Table:
    """Return a table of a trained bank beside the same layers untrained, on documents that neither has seen."""
    study, (trained,) = result["study"], result["sets"].values()
    untrained = study["untrained"]
    answers, tokens = untrained["answers_right"], study["bytes_per_token"]
    table = Table(title="held-out documents, before and after training", title_justify="left")
    for name in ("", "recovered", "grounded", "right answers", "a pass × cached prefix", "bytes a token of K"):
        table.add_column(name, justify="right" if name else "left")
    table.add_row("D(x)", "0", "0", f"{answers['bare']:.0%}", "", "0")
    whole = tokens // len(study["layers"]) * study["depth"]
    table.add_row("D(K,x), K's keys and values cached", "1", "1", f"{answers['prompted']:.0%}", "1", str(whole))
    for name, measured, right in (
        ("these layers, untrained", untrained, answers["ours"]),
        ("these layers, trained", trained, result["answers_right"]["ours"]),
    ):
        cost = measured["seconds"]["ours"] / measured["seconds"]["prompted_cached"]
        shares = share(measured["recovered"]), share(measured["grounded"])
        table.add_row(name, *shares, f"{right:.0%}", f"{cost:.2f}", str(tokens))
    return table


def _by_recipe(plan: Recipe, out: Path | None, device: str | None, resume: bool) -> tuple[Path, dict[str, Any]]:
    plan = dataclasses.replace(plan, device=device or plan.device)
    device_of(plan.device)
    folder = out or Path("runs") / plan.name
    _check_empty(folder, resume)
    with progress_bars() as (show, bar):
        model, result = run_recipe(plan, folder, resume=resume, progress=show, callbacks=[bar])
    if result:
        model.print_trainable_parameters()
    return folder, result


def _by_study(
    decoder: str,
    documents: Path | None,
    options: StudyOptions,
    out: Path | None,
    dtype: str,
    device: str,
    resume: bool,
) -> tuple[Path, dict[str, Any]]:
    folder = out or Path("runs") / Path(decoder).name
    _check_empty(folder, resume)
    with console.status("loading the decoder"):
        loaded = load_decoder(decoder, dtype=DTYPES[dtype], device=device_of(device))
    with progress_bars() as (show, bar):
        _, result = run_study(
            *loaded,
            decoder,
            documents,
            folder,
            options,
            resume=resume,
            progress=show,
            callbacks=[bar],
            report=print_text,
        )
    return folder, result


def _check_empty(folder: Path, resume: bool) -> None:
    if not resume and (list(folder.rglob("checkpoint-*")) or (folder / "study.json").exists()):
        raise ValueError(f"{str(folder)!r} holds an earlier run; continue it with --resume, or choose another --out.")
