"""Print the tables of docs/editing.md from research/results/editing/*.json."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results" / "editing"
SHARES = ("es", "ps", "ns", "generated", "generated_ps", "unchanged")


def main() -> None:
    """Print every part that was measured."""
    for path in sorted(RESULTS.glob("*.json")):
        found = json.loads(path.read_text())
        for part in ("forms", "methods", "one", "zsre", "sample"):
            if part in found:
                tables = found[part] if part == "methods" else {"all": found[part]}
                for name, rows in tables.items():
                    print(f"\n{path.name}: {part}, {name}\n\n{methods(rows)}")
        if "gates" in found:
            print(f"\n{path.name}: gates\n\n{gates(found['gates'])}")
        if "growth" in found:
            print(f"\n{path.name}: growth\n\n{growth(found['growth'])}")
        if "chains" in found:
            rows = [
                [name, row["n"], f"{row['likelier']:.1f}", f"{row['generated']:.1f}"]
                for name, row in found["chains"].items()
            ]
            print(f"\n{path.name}: chains\n\n{table(('method', 'n', 'likelier', 'generated'), rows)}")


def methods(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Lay methods out."""
    heads = (
        "method",
        "n",
        "ES",
        "PS",
        "NS",
        "S",
        "generated",
        "generated, paraphrase",
        "neighbours unchanged",
        "KL",
        "ppl",
    )
    lines = []
    for name, row in rows.items():
        rest = [f"{row['drift']:.4f}", f"{row['perplexity']:.2f}"] if "drift" in row else ["–", "–"]
        shares = [interval(row[key]) for key in SHARES]
        lines.append([name, row["n"], *shares[:3], number(row["s"]), *shares[3:], *rest])
    return table(heads, lines)


def gates(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Lay out how often gates open."""
    kinds = list(next(iter(found.values())))
    heads = (
        "inputs",
        "n",
        *(f"{gate}: {what}" for gate in found for what in ("opened", "right edit first", "right alone")),
    )
    lines = []
    for kind in kinds:
        cells = [number(found[gate][kind][what]) for gate in found for what in ("opened", "right", "alone")]
        lines.append([kind, next(iter(found.values()))[kind]["n"], *cells])
    return table(heads, lines)


def growth(rows: Iterable[Mapping[str, Any]]) -> str:
    """Lay out growth."""
    heads = (
        "edits",
        "gate",
        "n",
        "ES",
        "PS",
        "NS",
        "generated",
        "ms a question",
        "of D(x)'s pass",
        "ms an edit",
        "bytes an edit",
    )
    lines = []
    for row in rows:
        query = row["ms_gate"] if row["gate"] != "mention" else row["ms_mention"]
        shares = [interval(row[key]) for key in ("es", "ps", "ns", "generated")]
        cost = [
            f"{query:.1f}",
            f"{query / row['ms_bare']:.2f}",
            f"{row['ms_an_edit']:.0f}",
            f"{row['bytes_an_edit']:.0f}",
        ]
        lines.append([row["edits"], row["gate"], row["n"], *shares, *cost])
    return table(heads, lines)


def interval(found: Mapping[str, float] | None) -> str:
    """Print a share with its interval."""
    return "–" if found is None else f"{found['value']:.1f} [{found['low']:.1f}, {found['high']:.1f}]"


def number(value: float | None) -> str:
    """Print a number, or that there is none."""
    return "–" if value is None else f"{value:.1f}"


def table(heads: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """Lay out in Markdown."""
    lines = [list(heads), ["---"] * len(list(heads)), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


if __name__ == "__main__":
    main()
