"""The sources on tiny files in the upstream layouts, and the counts of the full data sets where they are at hand."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import pytest

from diekae.data import DataError, Example, Split, load_source
from diekae.data.example import write_examples
from diekae.data.sources import source_names
from diekae_research import sources
from diekae_research.sources import iterate_source
from diekae_research.sources.natural_questions import as_question
from layouts import FULL_DATA, SPLITS, needs_full_data


def _full(source: str, split: Split) -> list[Example]:
    assert FULL_DATA is not None
    return load_source(source, folder=FULL_DATA / source, split=split)


# --- the registry


def test_all_sources_are_found() -> None:
    assert source_names() == sorted(
        ["cmu_dog", "counterfact", "curiosity", "dream", "facts", "folio", "jsonl", "natural_questions"]
        + ["proofwriter", "quasar_t", "text", "wizard_of_wikipedia", "zsre"]
    )


def test_unknown_names_get_a_suggestion() -> None:
    with pytest.raises(DataError, match="unknown source 'counterfacts'; there are .*dream.*Did you mean 'counterfact'"):
        load_source("counterfacts", folder=None, split="train")
    with pytest.raises(DataError, match="unknown split 'training'.*Did you mean 'train'"):
        load_source("dream", folder=None, split="training")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("source", "file"),
    [
        ("dream", "dev.json"),
        ("counterfact", "counterfact-train.json"),
        ("natural_questions", "natural-questions-short-1000.csv"),
        ("zsre", "zsre_mend_"),
        ("cmu_dog", "WikiData"),
        ("curiosity", "fact_db_links.json"),
        ("folio", "folio-validation.jsonl"),
        ("proofwriter", "OWA/depth-2/meta-dev.jsonl"),
        ("quasar_t", "questions/dev_questions.json"),
        ("wizard_of_wikipedia", "valid_topic_split.json"),
        ("text", ".md"),
    ],
)
def test_a_missing_folder_or_file_is_named_with_its_origin(tmp_path: Path, source: str, file: str) -> None:
    with pytest.raises(DataError, match=rf"{source}.* from .*none was named"):
        load_source(source, folder=None, split="validation")
    with pytest.raises(DataError, match=r"no folder .*absent.* from "):
        load_source(source, folder=tmp_path / "absent", split="validation")
    with pytest.raises(DataError, match=rf"{file}.* from "):
        load_source(source, folder=tmp_path, split="validation")


def test_a_missing_folder_of_your_own_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'jsonl' needs a folder that holds validation.jsonl; none was named"):
        load_source("jsonl", folder=None, split="validation")
    with pytest.raises(DataError, match="validation.jsonl"):
        load_source("jsonl", folder=tmp_path, split="validation")


def test_a_limit_takes_a_seeded_subset_in_file_order(tmp_path: Path) -> None:
    rows = [Example((), f"{number:03}", "T") for number in range(100)]
    write_examples(tmp_path / "train.jsonl", rows)
    chosen = load_source("jsonl", folder=str(tmp_path), split="train", limit=10, seed=3)
    assert len(chosen) == 10 and chosen == sorted(chosen, key=lambda example: example.input)
    assert chosen != rows[:10]
    assert chosen == load_source("jsonl", folder=tmp_path, split="train", limit=10, seed=3)
    assert chosen != load_source("jsonl", folder=tmp_path, split="train", limit=10, seed=4)
    assert load_source("jsonl", folder=tmp_path, split="train", limit=1000) == rows
    with pytest.raises(DataError, match="limit is 0"):
        load_source("jsonl", folder=tmp_path, split="train", limit=0)


# --- DREAM


def _dialogue(question: str, answer: str = "Two.") -> list[object]:
    second = {"question": "Not the first?", "choice": [], "answer": "No."}
    return [["W: Hello.", "M: Hi."], [{"question": question, "choice": [answer], "answer": answer}, second], "1-1"]


def test_dream_takes_the_first_question_without_a_gap(tmp_path: Path) -> None:
    (tmp_path / "dev.json").write_text(json.dumps([_dialogue("They meet at __."), _dialogue("How many?")]))
    expected = [Example(("W: Hello.\nM: Hi.",), "How many?", "Two.")]
    assert load_source("dream", folder=tmp_path, split="validation") == expected


def test_dream_names_a_record_that_is_no_dialogue(tmp_path: Path) -> None:
    path = tmp_path / "test.json"
    path.write_text(json.dumps([_dialogue("How many?"), [["W: Hello."], [], "1-2"]]))
    with pytest.raises(DataError, match=r"test.json: entry 1: not a record of dream .*without a question"):
        sources.load_source("dream", folder=tmp_path, split="test", strict=True)
    path.write_text("[")
    with pytest.raises(DataError, match=r"test.json: not JSON"):
        load_source("dream", folder=tmp_path, split="test")
    path.write_text("[]")
    with pytest.raises(DataError, match="no example in split 'test'"):
        load_source("dream", folder=tmp_path, split="test")


@needs_full_data
def test_dream_has_the_counts_of_the_paper() -> None:
    assert [len(_full("dream", split)) for split in SPLITS] == [3829, 1273, 1276]


# --- CounterFact


def _write_cases(folder: Path, count: int) -> None:
    others = {"ground_truth": "O", "rephrase_prompt": "R", "locality_prompt": "L", "locality_ground_truth": "O"}
    cases = [
        {"case_id": number, "prompt": f"P{number} is", "subject": f"P{number}", "target_new": f"T{number}", **others}
        for number in range(count)
    ]
    for part, name in enumerate(("train", "edit", "val")):
        (folder / f"counterfact-{name}.json").write_text(json.dumps(cases[part::3][::-1]))


def test_counterfact_is_ordered_by_case_before_it_is_divided(tmp_path: Path) -> None:
    _write_cases(tmp_path, 20)
    parts = {split: load_source("counterfact", folder=tmp_path, split=split) for split in SPLITS}
    assert [example.input for example in parts["train"]] == [f"P{number} is" for number in range(17)]
    assert parts["validation"] == [Example((f"P{n} is T{n}.",), f"P{n} is", f"T{n}") for n in (17, 19)]
    assert parts["test"] == [Example(("P18 is T18.",), "P18 is", "T18")]


def test_counterfact_refuses_a_case_that_occurs_twice(tmp_path: Path) -> None:
    _write_cases(tmp_path, 20)
    (tmp_path / "counterfact-val.json").write_bytes((tmp_path / "counterfact-edit.json").read_bytes())
    with pytest.raises(DataError, match="counterfact-val.json: entry 0: .*occurs twice"):
        sources.load_source("counterfact", folder=tmp_path, split="test", strict=True)


@needs_full_data
def test_counterfact_has_the_counts_of_the_paper() -> None:
    parts = {split: _full("counterfact", split) for split in SPLITS}
    assert [len(parts[split]) for split in SPLITS] == [18631, 1644, 1644]
    assert parts["train"][0].knowledge == ("The mother tongue of Danielle Darrieux is English.",)


# --- Natural Questions


def _write_questions(folder: Path, short: int, oracle: int) -> None:
    with (folder / "natural-questions-short-1000.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["context", "question", "golden_answer"])
        rows.writerow(["A passage.", "who has no answer", ""])
        rows.writerow(["A passage, without it.", "who is elsewhere", "Nobody"])
        rows.writerows([[f"It was Short {n}, of course.", f"who is short {n}", f"short {n}"] for n in range(short)])
    with (folder / "nq-open-oracle-2000.jsonl").open("w", encoding="utf-8") as file:
        for n in range(oracle):
            question = "who is short 0" if n == 0 else f"who is open {n}"
            text = f"It was Open {n}. "
            row = {"question": question, "answers": [f"Open {n}", "Or so"], "ctxs": [{"title": "T", "text": text}]}
            file.write(json.dumps(row) + "\n")


def test_natural_questions_are_cleaned_deduplicated_and_split_by_hash(tmp_path: Path) -> None:
    _write_questions(tmp_path, short=300, oracle=300)
    parts = {split: load_source("natural_questions", folder=tmp_path, split=split) for split in SPLITS}
    everything = [example for part in parts.values() for example in part]
    assert len(everything) == len({example.input for example in everything}) == 599
    assert Example(("It was Short 0, of course.",), "Who is short 0?", "short 0") in everything
    assert Example(("It was Open 7.",), "Who is open 7?", "Open 7") in everything
    assert 440 < len(parts["train"]) < 520 and 30 < len(parts["validation"]) < 95 and 30 < len(parts["test"]) < 95

    (tmp_path / "nq-open-oracle-2000.jsonl").unlink()
    alone = {split: load_source("natural_questions", folder=tmp_path, split=split) for split in SPLITS}
    assert sum(map(len, alone.values())) == 300
    for split in SPLITS:
        assert set(alone[split]) < set(parts[split]), "a question changed its part with the files that are there"


@pytest.mark.parametrize(
    ("typed", "question"), [("who is it", "Who is it?"), (" Is it? ", "Is it?"), ("éa", "Éa?"), ("10 x", "10 x?")]
)
def test_a_query_becomes_a_question(typed: str, question: str) -> None:
    assert as_question(typed) == question


def test_natural_questions_names_a_bad_record(tmp_path: Path) -> None:
    short = tmp_path / "natural-questions-short-1000.csv"
    short.write_text("context,question\na,b\n")
    with pytest.raises(DataError, match="its columns are .*expected context, question, golden_answer"):
        load_source("natural_questions", folder=tmp_path, split="train")
    short.unlink()
    (tmp_path / "nq-open-oracle-2000.jsonl").write_text('{"question": "q", "answers": [], "ctxs": []}\n')
    with pytest.raises(DataError, match="nq-open-oracle-2000.jsonl:1: not a record of natural_questions"):
        load_source("natural_questions", folder=tmp_path, split="train")


def test_csv_files_are_read_strictly(tmp_path: Path) -> None:
    short = tmp_path / "natural-questions-short-1000.csv"
    head = "context,question,golden_answer\r\n"
    short.write_bytes(b"\xef\xbb\xbf" + f'{head}"Two\nlines\u2028here.",who is it,two\r\n'.encode())
    every = [e for split in SPLITS for e in iterate_source("natural_questions", folder=tmp_path, split=split)]
    assert every == [Example(("Two\nlines\u2028here.",), "Who is it?", "two")]
    for content, message in (
        (f'{head}"A passage that ends in quotes,who is it,two\n'.encode(), "not CSV .unexpected end of data"),
        (f'{head}"A" passage,who is it,two\n'.encode(), "not CSV "),
        (head.encode() + b"caf\xe9,who is it,caf\n", "not UTF-8 .*; save the file as UTF-8"),
        (f"{head}A passage, and more,who is it,two\n".encode(), "ends on line 2: it has not 3 fields"),
        (f"{head}A passage,who is it\n".encode(), "ends on line 2: it has not 3 fields"),
    ):
        short.write_bytes(content)
        with pytest.raises(DataError, match=f"natural-questions-short-1000.csv.*{message}"):
            load_source("natural_questions", folder=tmp_path, split="train")


def test_json_that_is_nested_too_deep_is_named(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(DataError, match="train.json: not JSON"):
        load_source("dream", folder=tmp_path, split="train")


@needs_full_data
def test_natural_questions_passages_contain_the_answers() -> None:
    parts = {split: _full("natural_questions", split) for split in SPLITS}
    assert {split: len(part) for split, part in parts.items()} == {"train": 2275, "validation": 275, "test": 291}
    everything = [example for part in parts.values() for example in part]
    assert all(example.target.lower() in example.knowledge[0].lower() for example in everything)
    assert max(Counter(example.input for example in everything).values()) == 1
