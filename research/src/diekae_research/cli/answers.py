"""`diekae-research answers`: right answers of a bank as a share of the prompt's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from diekae.cli.console import (
    DeviceOption,
    DtypeOption,
    JsonOption,
    SeedOption,
    load_model,
    print_text,
    progress_bars,
    write_figures,
)
from diekae.data.formats import Format
from diekae.models import resolve_dtype
from diekae.run.score import Way
from diekae_research.cli.choices import chosen
from diekae_research.documents.answers import QuestionSet, load_prompts, measure_answers
from diekae_research.provenance import write_json


def command(
    context: typer.Context,
    data: Annotated[Path | None, typer.Option(help="Folder of the raw data sets, for natural_questions.")] = None,
    decoder: Annotated[str, typer.Option(help="A decoder's name or folder.")] = "smollm2",
    bank: Annotated[
        str | None, typer.Option(help="A bank's folder, or the name of a shipped one; without it K is read untrained.")
    ] = None,
    layers: Annotated[
        str, typer.Option(help="Without a bank: the layers that read K: all, every:2, or 5,8,10.")
    ] = "all",
    sets: Annotated[
        list[str] | None, typer.Option(help=f"{', '.join(get_args(QuestionSet))}; all by default; may be repeated.")
    ] = None,
    ways: Annotated[
        list[str] | None, typer.Option(help=f"{', '.join(get_args(Way))}; all by default; may be repeated.")
    ] = None,
    format: Annotated[Format, typer.Option(help="Text around a question.")] = "qa",
    limit: Annotated[int, typer.Option(min=1, help="Most questions of each set.")] = 200,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    seed: SeedOption = 0,
    json: JsonOption = None,
) -> None:
    """Answer single questions greedily in every way, and count right answers.

    An answer is right if its first line holds the target (SQuAD's normalisation). Exact match, F1 and the share of
    D(K,x)'s right answers that ours gives too are measured beside it.
    """
    chosen_sets, chosen_ways = chosen("sets", sets, QuestionSet), chosen("ways", ways, Way)
    named = None if bank else decoder
    model = load_model(Path(bank or ""), device, dtype, decoder=named, layers=_layers(layers))
    figures = {}
    with progress_bars() as (show, _):
        for name in chosen_sets:
            prompts = load_prompts(model, name, data=data, limit=limit, seed=seed, format=format)
            figures[name] = measure_answers(model, prompts, chosen_ways, show)
    settings = {**context.params, "data": None, "json": None}
    settings |= {"bank": Path(bank).name if bank else None, "layers": list(model.layers)}
    settings |= {"sets": chosen_sets, "ways": chosen_ways}
    settings |= {"dtype": resolve_dtype(dtype, model.device), "device": model.device.type}
    write_figures(json, {"settings": settings, "sets": figures}, write_json)
    _print(figures)


def _layers(text: str) -> list[int] | str:
    """Return the layers that an option lists, or their name, such as ``all``, which the configuration checks."""
    try:
        return [int(layer) for layer in text.split(",")]
    except ValueError:
        return text


def _print(figures: dict[str, Any]) -> None:
    """Print how many answers are right in each set."""
    for name, row in figures.items():
        right = ", ".join(f"{way} {values['right'] * row['n']:.0f}" for way, values in row["ways"].items())
        share = f", share {row['share']:.2f}" if "share" in row else ""
        print_text(f"{name}: of {row['n']} right: {right}{share}")
