"""Print the tables of docs/performance.md from the JSON files in results/speed.

Run it with ``python research/summaries/speed.py``.
"""

from __future__ import annotations

import json
from pathlib import Path

RESULTS = Path(__file__).parents[1] / "results" / "speed"
FILES = ("inference", "decode", "prepare", "train", "memory")


def main() -> None:
    """Print a line a row."""
    print("| what | aim | measured | floor |")
    print("|---|---|---|---|")
    for name in FILES:
        path = RESULTS / f"{name}.json"
        for row in json.loads(path.read_text())["rows"] if path.is_file() else ():
            aim = "" if row["aim"] is None else f"{'≥' if row['at_least'] else '≤'} {row['aim']:.3g}"
            figure = "not measured" if row["figure"] is None else f"{row['figure']:.3g}"
            figure = f"**{figure}**" if row["reached"] else figure
            floor = "" if row["floor"] is None else f"{row['floor']:.3g}"
            print(f"| {row['name'].replace('|', '')} | {aim} | {figure} | {floor} |")


if __name__ == "__main__":
    main()
