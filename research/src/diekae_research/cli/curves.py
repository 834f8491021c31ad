"""`diekae-research curves`: a bank with many documents, and with long ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from diekae.cli.console import (
    SHIPPED,
    BankOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    load_model,
    print_text,
    progress_bars,
    share,
    write_figures,
)
from diekae.data import read_examples
from diekae_research.evaluation.curves import DOCUMENTS, LENGTHS, measure_curves
from diekae_research.provenance import name_of, write_json
from diekae_research.tables.sheet import grid


def command(
    data: Annotated[Path, typer.Option(help="Held-out examples with knowledge (JSONL).")],
    bank: BankOption = SHIPPED,
    limit: Annotated[int, typer.Option(min=1, help="Use only the first examples.")] = 48,
    documents: Annotated[
        list[int], typer.Option(min=1, help="How many documents are read at once; may be repeated.")
    ] = list(DOCUMENTS),  # noqa: B006
    lengths: Annotated[list[int], typer.Option(min=1, help="Tokens of knowledge; may be repeated.")] = list(LENGTHS),  # noqa: B006
    batch_size: Annotated[int, typer.Option(min=1, help="Examples of one pass.")] = 8,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    json: JsonOption = None,
) -> None:
    """Measure a bank by number of documents and by length of knowledge."""
    examples = read_examples(data, limit)
    model = load_model(bank, device, dtype)
    with progress_bars() as (show, _):
        figures = measure_curves(
            model, examples, documents=documents, lengths=lengths, batch_size=batch_size, progress=show
        )
    settings = {"config": model.config.to_dict(), "data": data.name, "format": model.config.format}
    write_figures(json, {**settings, "dtype": name_of(model.decoder.dtype), **figures}, write_json)
    print_text(_table(figures))
    for name, numbers in (("documents", documents), ("lengths", lengths)):
        if missing := sorted(set(numbers) - {point[name] for point in figures[name]}):
            print_text(f"too few or too long documents for {name} {missing}")


def _table(figures: dict[str, Any]) -> str:
    """Return all points as a table, one curve after the other."""
    labels = {"documents": "{} documents", "lengths": "about {} tokens of K"}
    rows = []
    for name, label in labels.items():
        for point in figures[name]:
            losses = [f"{point['nll'][how]:.3f}" for how in ("bare", "prompted", "ours")]
            shares = [share(point["recovered_prompted"]), share(point["recovered"])]
            rows.append([label.format(point[name]), point["n"], *losses, *shares])
    heads = ("", "n", "D(x)", "D(K,x)", "ours", "recovered, D(K,x)", "recovered, ours")
    return f"{grid(heads, rows)}\n\nnats a target token; recovered: share of the gap with the relevant document alone"
