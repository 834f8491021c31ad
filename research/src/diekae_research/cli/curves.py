"""`diekae-research curves`: a bank with many documents, long ones, and irrelevant ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from diekae.cli.console import (
    SHIPPED,
    BankOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    PlotOption,
    load_model,
    print_text,
    progress_bars,
    share,
    write_figures,
)
from diekae.cli.output import printable_name
from diekae.data import read_examples
from diekae.evaluation.plots import check_kind, save_figure
from diekae_research.evaluation.curves import DOCUMENTS, LENGTHS, measure_curves
from diekae_research.evaluation.curves_plot import draw_curves
from diekae_research.provenance import name_of, write_json
from diekae_research.tables.sheet import grid


def command(
    data: Annotated[Path, typer.Option(help="Held-out examples with knowledge (JSONL).")],
    bank: BankOption = SHIPPED,
    limit: Annotated[int, typer.Option(min=1, help="Use only the first examples.")] = 48,
    documents: Annotated[list[int], typer.Option(min=1, help="Documents at once; may be repeated.")] = list(DOCUMENTS),  # noqa: B006
    lengths: Annotated[list[int], typer.Option(min=1, help="Tokens of knowledge; may be repeated.")] = list(LENGTHS),  # noqa: B006
    batch_size: Annotated[int, typer.Option(min=1, help="Examples a pass.")] = 8,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    json: JsonOption = None,
    plot: PlotOption = None,
) -> None:
    """Measure a bank by number of documents, length of knowledge, target position and copying, and its harm."""
    if plot is not None:
        check_kind(plot)
    examples = read_examples(data, limit)
    model = load_model(bank, device, dtype)
    with progress_bars() as (show, _):
        figures = measure_curves(
            model, examples, documents=documents, lengths=lengths, batch_size=batch_size, progress=show
        )
    settings = {"config": model.config.to_dict(), "data": data.name, "format": model.config.format}
    write_figures(json, {**settings, "dtype": name_of(model.decoder.dtype), **figures}, write_json)
    if plot is not None:
        save_figure(draw_curves(figures), plot)
        print_text(f"plots: {printable_name(plot)}")
    print_text(_table(figures))
    for name, numbers in (("documents", documents), ("lengths", lengths)):
        if missing := sorted(set(numbers) - {point[name] for point in figures[name]}):
            print_text(f"too few or too long documents for {name} {missing}")


def _table(figures: dict[str, Any]) -> str:
    """Return all points as a table, one curve after the other."""
    named: tuple[tuple[str, Callable[[dict[str, Any]], str]], ...] = (
        ("documents", lambda point: f"{point['documents']} documents"),
        ("lengths", lambda point: f"about {point['lengths']} tokens of K"),
        ("positions", lambda point: f"target tokens {point['from'] + 1} to {point['to'] or 'end'}"),
        ("copies", lambda point: "target in K" if point["copied"] else "target not in K"),
    )
    rows = []
    for name, label in named:
        for point in figures[name]:
            losses = [f"{point['nll'][how]:.3f}" for how in ("bare", "prompted", "ours")]
            shares = [share(point["recovered_prompted"]), share(point["recovered"])]
            rows.append([label(point), point["n"], *losses, *shares])
    harm = figures["unrelated"]
    notes = "nats a target token; recovered: share of the gap with the relevant document alone" + (
        f"\nanother's knowledge: harm {harm['harm']:+.4f} nats, KL to D(x) {harm['kl']:.4f}" if harm else ""
    )
    return f"{grid(('', 'n', 'D(x)', 'D(K,x)', 'ours', 'recovered, D(K,x)', 'recovered, ours'), rows)}\n\n{notes}"
