"""Edits, and the files they come from."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from diekae.data.example import DataError
from diekae.edit import Edit, make_edit, read_edits

GOOD = {"prompt": "The mother tongue of Danielle Darrieux is", "subject": "Danielle Darrieux", "target": "English"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"subject": ""}, "subject is ''"),
        ({"subject": "  "}, "subject is"),
        ({"subject": "\u200b", "prompt": "\u200bis"}, "subject is"),
        ({"target": ""}, "target is ''"),
        ({"prompt": "The mother tongue is"}, "does not contain its subject 'Danielle Darrieux'"),
        ({"aliases": ("",)}, r"aliases\[0\] is ''"),
        ({"aliases": "Darrieux"}, "must be a tuple"),
        ({"target_true": " "}, "target_true is"),
        ({"target": None}, "target is None"),
        ({"target": "English\ud800"}, "target is not Unicode: it holds U.D800"),
        ({"prompt": "\udcff" + GOOD["prompt"]}, "prompt is not Unicode: it holds U.D"),
        ({"prompt": "\ud800 is", "subject": "\ud800"}, "prompt is not Unicode: it holds U.D"),
        ({"aliases": ("a", "\udfff")}, r"aliases\[1\] is not Unicode: it holds U.DFFF"),
        ({"target_true": "\ud800"}, "target_true is not Unicode: it holds U.D800"),
    ],
)
def test_an_invalid_edit_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Edit(**{**GOOD, **change})


def test_aliases_that_are_no_names_are_refused() -> None:
    with pytest.raises(ValueError, match="aliases are 5; expected a list of names"):
        make_edit({**GOOD, "aliases": 5})


def test_statement_and_fact() -> None:
    edit = Edit(**GOOD)
    assert edit.statement == "The mother tongue of Danielle Darrieux is English."
    other = Edit("the mother tongue  of Danielle Darrieux is ", "Danielle Darrieux", "French.")
    assert other.fact == edit.fact and other.statement == "the mother tongue  of Danielle Darrieux is French."
    nfc, nfd = (Edit(f"{name} is", name, "x") for name in ("José", "Jose\u0301"))
    assert nfc.fact == nfd.fact
    assert Edit("Danielle Darrieux, a native", "Danielle Darrieux", "x").fact != edit.fact


@pytest.mark.parametrize(
    "record",
    [
        GOOD,
        {"requested_rewrite": {"prompt": "The mother tongue of {} is", "subject": "Danielle Darrieux",
                               "target_new": {"str": "English", "id": "Q1"}, "target_true": {"str": "French"}}},
        {"prompt": GOOD["prompt"], "subject": GOOD["subject"], "target_new": "English", "ground_truth": "French"},
        {"src": GOOD["prompt"], "subject": GOOD["subject"], "alt": "English"},
    ],
)  # fmt: skip
def test_known_layouts(record: dict[str, Any]) -> None:
    edit = make_edit(record)
    assert (edit.prompt, edit.subject, edit.target) == tuple(GOOD.values())
    assert edit.target_true in ("French", None)


def test_files_of_three_kinds(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([GOOD, GOOD]))
    (tmp_path / "a.jsonl").write_text(json.dumps(GOOD) + "\n\n" + json.dumps(GOOD))
    (tmp_path / "a.csv").write_text(
        "prompt,subject,target,aliases\n"
        '"The mother tongue of Danielle Darrieux is",Danielle Darrieux,English,Darrieux|DD\n'
    )
    assert read_edits(tmp_path / "a.json") == read_edits(tmp_path / "a.jsonl") == [Edit(**GOOD)] * 2
    assert read_edits(tmp_path / "a.csv") == [Edit(**GOOD, aliases=("Darrieux", "DD"))]


BREAKS = "".join(f"old{mark}man" for mark in ("\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"))


def test_line_breaks_inside_texts_end_no_entry(tmp_path: Path) -> None:
    expected = [Edit("the king is", "king", BREAKS), Edit("the sea is", "sea", "deep")]
    rows = [{"prompt": edit.prompt, "subject": edit.subject, "target": edit.target} for edit in expected]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (tmp_path / "a.jsonl").write_bytes("\r\n".join(lines).encode())
    assert read_edits(tmp_path / "a.jsonl") == expected
    quoted = [Edit("the king is", "king", f'an "old"\nman,\r\n{BREAKS}'), expected[1]]
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file)
        writer.writerows([["prompt", "subject", "target"], *([e.prompt, e.subject, e.target] for e in quoted)])
    assert read_edits(tmp_path / "a.csv") == quoted


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "[{}]", "entry 0: .*prompt, target, subject is missing"),
        ("a.json", "[", "a.json: not JSON"),
        ("a.json", "[]", "holds no edit"),
        ("a.json", "[3]", "entry 0: expected an object"),
        ("a.jsonl", '{"prompt": "x", "subject": "y", "target": "z"}', "a.jsonl:1: .*does not contain"),
        ("a.jsonl", "\n{", "a.jsonl:2: not JSON"),
        ("a.csv", "prompt,subject\nx,x\n", "row 1: .*target is missing"),
        ("a.csv", "prompt,subject,target\nthe sea is,sea,deep, old\n", "row 1 has more values than the header"),
        ("a.csv", 'prompt,subject,target\nthe sea is,sea,"deep\nthe lake is,lake,old\n', "not CSV in UTF-8"),
        ("a.csv", "prompt,subject,target\nthe sea is,sea\n", "row 1: .*target is missing"),
        ("a.json", "[" * 200_000, "nested too deep"),
        ("a.jsonl", '{"prompt": "the sea is", "subject": "sea", "target": "\\ud800"}', "a.jsonl:1: .*not Unicode"),
        ("a.txt", "x", "'.txt' holds no edits"),
    ],
)
def test_a_broken_file_is_refused_and_its_entry_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        read_edits(tmp_path / name)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_edits(tmp_path / "a.json")
