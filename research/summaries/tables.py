"""Print the tables of docs/results.md from the files in results/tables: `python research/summaries/tables.py`."""

from __future__ import annotations

import json
from pathlib import Path

RESULTS = Path(__file__).parents[1] / "results"
COLUMNS = {
    "quality": ("method", "data", "n", "NLL", "paper_perplexity", "recovered", "grounded", "F1", "harm", "paper"),
    "cost": ("method", "parameters", "training, s", "inference, ms", "× D(x)", "prepare K, ms"),
    "Table 2": ("method", "data", "n", "head, %", "likelihood, %", "majority, %", "paper"),
    "Table 3": ("method", "edits", "ES", "PS", "NS", "generated", "drift", "training, s", "paper"),
    "Table 5": ("layers", "encoders", "NLL", "recovered", "grounded", "training, s an epoch", "× D(x)", "paper"),
}
"""Columns that are shown of a sheet whose title has the word; all of others."""


def line(cells: list[str]) -> str:
    """Return a row of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Print every sheet of every file."""
    for path in [path for part in ("tables", "history/tables") for path in sorted((RESULTS / part).glob("*.json"))]:
        found = json.loads(path.read_text())
        for sheet in next(value for key, value in found.items() if key.startswith(("table", "figure")))["sheets"]:
            shown = next((names for word, names in COLUMNS.items() if word in sheet["title"]), sheet["columns"])
            places = [sheet["columns"].index(name) for name in shown]
            print(f"\n{path.name}: {sheet['title']}\n")
            print(line(list(shown)), line(["---"] * len(shown)), sep="\n")
            print(*(line([row[place] for place in places]) for row in sheet["rows"]), sep="\n")


if __name__ == "__main__":
    main()
