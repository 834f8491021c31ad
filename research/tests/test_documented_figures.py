"""The figures of the main tables of README and docs are those of the stored results."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
LENGTHS = {"pass over x": (32, 128, 1024, 4096, 8000), "generated token": (128, 1024, 4096)}
BANKS = {"exact": "exact", "smollm2": "bank"}
FILES = {
    ("pass over x", "fp32"): "inference",
    ("pass over x", "bf16"): "inference-bf16",
    ("pass over x", "fp32, chat"): "inference-chat",
    ("generated token", "fp32"): "decode",
    ("generated token", "bf16"): "decode-bf16",
}
SUMMARY = [
    ("generated token", "fp32", "exact"),
    ("generated token", "bf16", "exact"),
    ("generated token", "fp32", "smollm2"),
    ("pass over x", "fp32", "exact"),
    ("pass over x", "bf16", "exact"),
    ("pass over x", "fp32", "smollm2"),
]
"""The rows of the short table of costs, which README and the overview of results share."""


def read_result(name: str) -> Any:
    return json.loads((ROOT / "research/results" / name).read_text())


def ratios(what: str, kind: str, bank: str, lengths: tuple[int, ...], suffix: str = "") -> list[str]:
    """Return the measured ratios to a cached prefix, as pages write them; empty texts for what was not measured."""
    rows = {row["name"]: row["figure"] for row in read_result(f"speed/{FILES[what, kind]}.json")["rows"]}
    names = [f"{what}, {BANKS[bank]}, |K| {length}, against a cached prefix{suffix}" for length in lengths]
    return [f"{rows[name]:.2f}" if name in rows else "" for name in names]


def cells(line: str) -> list[str]:
    """Return the texts of a row of a table, without emphasis."""
    return [cell.strip(" *`") for cell in line.split("|")[1:-1]]


@pytest.mark.parametrize("page", ["README.md", "docs/results/index.md"])
def test_the_short_table_of_costs(page: str) -> None:
    pattern = r"^\| (?:a generated token|the same in bf16|a pass over 32).*$"
    lines = re.findall(pattern, (ROOT / page).read_text(), re.MULTILINE)
    assert [cells(line)[1:] for line in lines] == [ratios(*row, LENGTHS["generated token"]) for row in SUMMARY]


def test_the_page_of_costs() -> None:
    page = (ROOT / "docs/results/cost.md").read_text()
    tables = {
        "**A pass over x**": ("pass over x", ""),
        "**A generated token**": ("generated token", ""),
        "`StaticCache`": ("generated token", " of fixed size"),
    }
    for title, (what, suffix) in tables.items():
        table = page.partition(title)[2].partition("| bank |")[2].partition("\n\n")[0]
        rows = [cells(line) for line in table.splitlines() if "`" in line]
        assert len(rows) >= 3
        for bank, kind, *figures in rows:
            assert figures == ratios(what, kind, bank, LENGTHS[what], suffix), f"{title} {bank}, {kind}"


def right(figures: dict[str, Any], way: str) -> int:
    return round(figures["n"] * figures["ways"][way]["right"])


def test_the_table_of_right_answers() -> None:
    page = (ROOT / "docs/results/index.md").read_text()
    trained, exact = read_result("answers.json")["sets"], read_result("answers-exact.json")["sets"]
    for name, figures in trained.items():
        row = [
            name.replace("_", " ").replace("natural questions", "Natural Questions"),
            f"{right(figures, 'prompted')} of {figures['n']}",
            str(right(figures, "ours")),
            f"{figures['share']:.2f}",
            str(right(exact[name], "prompted")),
            str(right(exact[name], "ours")),
        ]
        assert f"| {' | '.join(row)} |" in page


def test_the_table_of_missing_answers() -> None:
    page = (ROOT / "docs/results/answers.md").read_text()
    rows = re.findall(r"^\| (?:small|large) store, .*\(`(documents-search[\w-]*\.json)`\) \|(.*)$", page, re.MULTILINE)
    assert len(rows) == 4
    for name, figures in rows:
        counts = {kind: tuple(count) for kind, count in read_result(name)["silence"]["said_not_there"].items()}
        counts["read"] = tuple(a - b for a, b in zip(counts["answerable"], counts["not_found"], strict=True))
        order = ("far", "near", "taken_out", "read", "not_found")
        assert cells(f"|{figures}") == [f"{counts[kind][0]} of {counts[kind][1]}" for kind in order], name


@pytest.mark.parametrize("name", ["qwen", "gemma"])
def test_the_table_of_edits_of_other_decoders(name: str) -> None:
    page = (ROOT / "docs/results/editing.md").read_text()
    title = {"qwen": "| Qwen2.5", "gemma": "| Gemma 3"}[name]
    unedited, edited = [cells(line) for line in (title + page.partition(title)[2]).splitlines()[:2]]
    methods = read_result(f"editing/{name}-exact.json")["methods"]["many"]
    for line, method in ((unedited, "bare"), (edited, "memory, mention")):
        written = [float(re.sub(r"[*]|\[.*", "", cell)) for cell in line[2:]]
        row = methods[method]
        shares = [row[key]["value"] for key in ("es", "ps", "ns", "generated", "generated_ps", "unchanged")]
        assert written == [round(value, 1) for value in (*shares[:3], row["s"], *shares[3:])], method


def test_the_table_of_documents_that_are_prepared_apart() -> None:
    page = (ROOT / "docs/results/experiments.md").read_text()
    rows = [cells(line) for line in re.findall(r"^\| (?:`smollm2`|exact reading), .*curves.*$", page, re.MULTILINE)]
    assert len(rows) == 4
    for _, *figures, files in rows:
        shares = {}
        for name in re.findall(r"[\w/-]+\.json", files):
            for point in read_result(name)["documents"]:
                shares[point["documents"]] = f"{point['recovered'] / point['recovered_prompted']:.2f}"
        assert figures == [shares.get(number, "–") for number in (2, 8, 32)]


def test_the_table_of_right_answers_from_several_documents() -> None:
    page = (ROOT / "docs/results/experiments.md").read_text()
    rows = [cells(line) for line in re.findall(r"^\|.*`several-.*$", page, re.MULTILINE)]
    assert len(rows) == 4
    for documents, prompted, *others, found, read, name in rows:
        result = read_result(name.strip("`"))
        count = {way: round(score["right"] * result["n"]) for way, score in result["scores"].items()}
        assert f": {result['documents']}, " in documents
        assert prompted == f"{count['prompted']} of {result['n']}"
        assert [int(other) for other in others] == [count[way] for way in ("chosen", "all", "own")]
        assert (int(found), read) == (round(result["found"] * result["n"]), f"{result['read']:.1f}")
    index = " ".join((ROOT / "docs/results/index.md").read_text().split())
    (small, larger), (of_small, of_larger) = (
        [round(read_result(f"several-8-facts{name}.json")["scores"][way]["right"] * 60) for name in ("", "-qwen")]
        for way in ("chosen", "prompted")
    )
    assert f"right {small} times, and Qwen2.5-Coder-0.5B {larger} times; with all eight in one prompt" in index
    assert f"in one prompt {of_small} and {of_larger} times" in index
    sentence, tried = " ".join(page.split()), read_result("history/several-8-facts-qwen-contrast.json")
    right = {way: round(score["right"] * tried["n"]) for way, score in tried["scores"].items()}
    assert (
        f"it gives {right['contrast']} of {tried['n']} right answers where the prompt gets {right['prompted']}"
        in sentence
    )
    rows = [cells(line) for line in re.findall(r"^\|.*`unrelated-.*$", page, re.MULTILINE)]
    assert len(rows) == 4
    for _, none, bare, *others, lost, name in rows:
        result = read_result(name.strip("`"))
        assert none == f"{result['none']} of {result['n']}" and lost == f"{result['lost']} of {result['own_questions']}"
        assert [int(bare), *map(int, others)] == [result["right"][way] for way in ("bare", "chosen", "best")]
    seconds = read_result("several-32.json")["first_token"]
    assert f"{seconds['chosen'] / seconds['own']:.0f} times that of the relevant one alone" in sentence
    assert f"{seconds['chosen'] / seconds['prompted']:.2f} of that of the prompt with all" in sentence
