"""Tables and JSON as lines that can be understood alone."""

import csv
import json
import random
from pathlib import Path
from typing import Any

import pytest

from diekae.readers import read_document
from document_files import read

NAMES = ("name", "born in", "height, m", 'said "so"')


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("seed", range(5))
def test_each_row_of_a_table_has_its_column_names(delimiter: str, seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    values = ["Ada, L.", "a; b", "x|y", "1,5", "two\nlines", "", '"quoted"', "ü"]
    rows = [[draw.choice(values) for _ in NAMES] for _ in range(30)]
    with open(tmp_path / "a.csv", "w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([NAMES, *rows])
    want = [
        "; ".join(f"{name}: {' '.join(cell.split())}" for name, cell in zip(NAMES, row, strict=True) if cell)
        for row in rows
        if any(row)
    ]
    assert len(want) > 20 and read_document(tmp_path / "a.csv").split("\n") == want


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("a,b\n", "a; b"),
        ("2,3\n4,5\n", "column 1: 2; column 2: 3\ncolumn 1: 4; column 2: 5"),
        (",2019,2020\nPeru,1.5,\n", "column 1: Peru; 2019: 1.5"),
        ("text\nhello, world\nyes, no\n", "text: hello, world\ntext: yes, no"),
        ("a,b,c\n1,2\n\n1,2,3,4\n", "a: 1; b: 2\na: 1; b: 2; c: 3; column 4: 4"),
    ],
)
def test_irregular_tables_are_read(content: str, text: str, tmp_path: Path) -> None:
    assert read(tmp_path / "a.csv", content) == text
    assert read(tmp_path / "a.tsv", content.replace(", ", "{}").replace(",", "\t").replace("{}", ", ")) == text


def leaves(value: Any) -> list[str]:
    """Return all scalars in a value."""
    if isinstance(value, dict | list):
        return [leaf for inner in (value.values() if isinstance(value, dict) else value) for leaf in leaves(inner)]
    return [str(value)]


def random_value(draw: random.Random, depth: int) -> Any:
    kind = draw.choice(("dict", "list", "scalar")) if depth else "scalar"
    if kind == "scalar":
        return draw.choice([draw.randint(0, 10**6), f"word {draw.randint(0, 10**6)}"])
    inner = [random_value(draw, depth - 1) for _ in range(draw.randint(1, 3))]
    return inner if kind == "list" else {f"key{number}": value for number, value in enumerate(inner)}


@pytest.mark.parametrize("seed", range(20))
def test_all_values_of_json_are_in_the_text_in_order(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    entries = [random_value(draw, 4) for _ in range(5)]
    files = {"list.json": json.dumps(entries), "object.json": json.dumps({"all": {"of": entries[0]}})}
    files["lines.jsonl"] = "\n".join(map(json.dumps, entries))
    texts = {name: read(tmp_path / name, content) for name, content in files.items()}
    assert texts["list.json"] == texts["lines.jsonl"] and texts["list.json"].count("\n") == len(entries) - 1
    for name, value in (("list.json", entries), ("object.json", entries[0])):
        place = 0
        for leaf in leaves(value):
            place = texts[name].index(leaf, place) + len(leaf)


def test_json_becomes_lines_with_paths_and_values(tmp_path: Path) -> None:
    people = [
        {"name": "Ada", "born": 1815, "tags": ["a", "b"]},
        {"name": "Bob", "kids": [{"name": "Cid", "age": 3.10}], "ok": True},
    ]
    content = json.dumps({"count": 2, "at": {"city": "Turin", "street": None}, "people": people})
    assert read(tmp_path / "a.json", content.replace("3.1", "3.10")).split("\n") == [
        *("count: 2", "at.city: Turin", "at.street: none", "people[1]: name: Ada; born: 1815; tags: a, b"),
        "people[2]: name: Bob; kids[1]: (name: Cid; age: 3.10); ok: true",
    ]
    assert read(tmp_path / "b.jsonl", '{"a": "x\\ny"}\n\n{"a": "one\u2028line"}\r\n') == "a: x y\na: one line"
