"""`diekae-research summary`: the tables of the documentation, printed in Markdown from stored results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from diekae.data.jsonl import DataError, parse_json
from diekae_research.evaluation.intervals import Interval
from diekae_research.tables.sheet import grid, interval, number

BANKS = ("smollm2", "dream-attention", "dream-reader", "dream-token", "dream-paper")
"""Rows of docs/results/experiments.md."""
EARLIER_BANKS = ("dream", "dream-3-epochs", "dream-token", "dream-paper", "mixture")
"""The same, measured by earlier code."""
BENCHMARKS = ("inference", "decode", "prepare", "train", "memory")
COLUMNS = {
    "quality": ("method", "data", "n", "NLL", "paper_perplexity", "recovered", "grounded", "F1", "harm", "paper"),
    "cost": ("method", "parameters", "training, s", "inference, ms", "× D(x)", "prepare K, ms"),
    "Table 2": ("method", "data", "n", "head, %", "likelihood, %", "majority, %", "paper"),
    "Table 3": ("method", "edits", "ES", "PS", "NS", "generated", "drift", "training, s", "paper"),
    "Table 5": ("layers", "encoders", "NLL", "recovered", "grounded", "training, s an epoch", "× D(x)", "paper"),
}
"""Columns that are shown of a sheet whose title has the word; all columns of other sheets."""
EDIT_SHARES = {
    "es": "ES",
    "ps": "PS",
    "ns": "NS",
    "generated": "generated",
    "generated_ps": "generated, paraphrase",
    "unchanged": "neighbours unchanged",
}


def _read(path: Path) -> dict[str, Any]:
    """Return a stored result.

    Raises:
        DataError: The file is not JSON, or not an object.
    """
    try:
        value = parse_json(path.read_bytes())
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: holds a {type(value).__name__}; expected the result of a measurement")
    return value


def banks(results: Path) -> Iterator[str]:
    """Yield the tables of measured banks: docs/results/experiments.md."""
    for folder, runs in ((results, BANKS), (results / "history", EARLIER_BANKS)):
        rows = []
        for run in (run for run in runs if (folder / f"{run}.json").is_file()):
            result = _read(folder / f"{run}.json")
            for name, row in result["sets"].items():
                losses = [f"{row['nll'][way]:.2f}" for way in ("bare", "prompted", "ours")]
                shares = [number(row[key]) for key in ("recovered", "grounded")]
                rows.append([f"`{run}`", result["recipe"]["diekae"]["encoder"], name, row["n"], *losses, *shares])
        yield grid(("run", "encoder", "data", "n", "D(x)", "D(K,x)", "ours", "recovered", "grounded"), rows)


def speed(results: Path) -> Iterator[str]:
    """Yield the table of docs/results/cost.md."""
    paths = [results / "speed" / f"{name}.json" for name in BENCHMARKS]
    yield speed_table([row for path in paths if path.is_file() for row in _read(path)["rows"]])


def speed_table(comparisons: Iterable[Mapping[str, Any]]) -> str:
    """Return the table of a benchmark's rows."""
    rows = []
    for row in comparisons:
        aim = "" if row["aim"] is None else f"{'≥' if row['at_least'] else '≤'} {row['aim']:.3g}"
        measured = "not measured" if row["figure"] is None else f"{row['figure']:.3g}"
        floor = "" if row["floor"] is None else f"{row['floor']:.3g}"
        rows.append([row["name"], aim, f"**{measured}**" if row["reached"] else measured, floor])
    return grid(("what", "aim", "measured", "floor"), rows)


def tables(results: Path) -> Iterator[str]:
    """Yield the paper's tables of docs/results/paper.md, one of each sheet."""
    for path in [path for part in ("tables", "history/tables") for path in sorted((results / part).glob("*.json"))]:
        result = _read(path)
        for sheet in next(value for key, value in result.items() if key.startswith(("table", "figure")))["sheets"]:
            shown = next((names for word, names in COLUMNS.items() if word in sheet["title"]), sheet["columns"])
            places = [sheet["columns"].index(name) for name in shown]
            rows = [[row[place] for place in places] for row in sheet["rows"]]
            yield f"{path.name}: {sheet['title']}\n\n{grid(shown, rows)}"


def editing(results: Path) -> Iterator[str]:
    """Yield the tables of docs/results/editing.md, one of each part that was measured."""
    for path in sorted((results / "editing").glob("*.json")):
        yield from editing_tables(path.name, _read(path))


def editing_tables(title: str, result: Mapping[str, Any]) -> Iterator[str]:
    """Yield the tables of one measurement of edits."""
    parts = {**result.get("methods", {}), **({"sample": result["sample"]} if "sample" in result else {})}
    for name, rows in parts.items():
        yield f"{title}: {name}\n\n{edit_methods(rows)}"
    if "gates" in result:
        yield f"{title}: gates\n\n{edit_gates(result['gates'])}"


def edit_methods(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the table of editing methods."""
    names = list(EDIT_SHARES.values())
    lines = []
    for method, row in rows.items():
        shares = [share(row[key]) for key in EDIT_SHARES]
        drift = [f"{row['drift']:.4f}", f"{row['perplexity']:.2f}"] if "drift" in row else ["–", "–"]
        lines.append([method, row["n"], *shares[:3], number(row["s"], 1), *shares[3:], *drift])
    return grid(("method", "n", *names[:3], "S", *names[3:], "KL", "ppl"), lines)


def edit_gates(gates: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the table of how often gates open, by kind of input."""
    heads = ["inputs", "n"]
    heads += [f"{gate}: {what}" for gate in gates for what in ("opened", "right edit first", "right alone")]
    rows = []
    for kind, row in next(iter(gates.values())).items():
        figures = [number(gates[gate][kind][key], 1) for gate in gates for key in ("opened", "right", "alone")]
        rows.append([kind, row["n"], *figures])
    return grid(heads, rows)


def share(figure: Mapping[str, float] | None) -> str:
    """Return a share with its interval as text; a dash for none."""
    return interval(None if figure is None else Interval(**figure), 1)


KINDS = {"banks": banks, "speed": speed, "tables": tables, "editing": editing}


def command(
    kind: Annotated[Literal["banks", "speed", "tables", "editing"], typer.Argument(help="Which tables.")],
    results: Annotated[Path, typer.Option(help="Folder of the stored results.")] = Path("research/results"),
) -> None:
    """Print the tables of the documentation from stored results, in Markdown."""
    if not results.is_dir():
        raise ValueError(f"no folder {str(results)!r}; give the folder of results with --results.")
    try:
        text = "\n\n".join(KINDS[kind](results))
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"a file in {str(results)!r} has not the form of a result ({error!r}); measure it again, or remove it."
        ) from error
    print(text)
