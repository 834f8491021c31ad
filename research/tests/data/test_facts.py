"""The properties of the invented documents that training and tests rely on."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import string
import subprocess
import sys
from collections import Counter
from importlib.resources import files
from typing import Any, get_args

import pytest

from diekae.data import DataError, Example, Split, load_source
from diekae_research.fiction import KINDS, Document, write_documents
from diekae_research.fiction.kind import Kind
from diekae_research.fiction.names import NameMaker
from diekae_research.fiction.shared import SHARED
from diekae_research.fiction.template import draw_values, fill
from diekae_research.sources.facts import facts

SPLITS: tuple[Split, ...] = get_args(Split)
COUNTS = {"train": 1200, "validation": 300, "test": 300}
INVENTED = re.compile(
    "".join(f"(?:{'|'.join(parts)})" for parts in (*SHARED["syllables"].values(), sum(SHARED["endings"].values(), []))),
    re.IGNORECASE,
)
GOLDEN = {
    ("train", 240, 0, None): "8634596e79f92f01eec25bd76a174458bf23fb0d65d860fa26af49ab254728cf",
    ("validation", 60, 7, None): "157b936fc6133c928565be6aa7c7ad0d3b493bfde7972e1cfb50bb44d67cf1f4",
    ("test", 60, 7, ("species", "ship", "person")): "091e28fa36296c350faad572549685834f00e86ade9f4430134265b67ca177fb",
    ("train", 120, 42, ("book", "town")): "a51a48e6cc4e68ab5fa6e84c00e80c249ab1315639e74ea4d175b7a58c328c1a",
}
"""SHA-256 of the examples. Committed results were measured on them, so they must never change."""


@pytest.fixture(scope="module")
def documents() -> dict[Split, list[Document]]:
    return {split: write_documents(split, COUNTS[split], 0, list(KINDS.values())) for split in SPLITS}


def _flat(documents: dict[Split, list[Document]]) -> list[Document]:
    return [document for part in documents.values() for document in part]


def _fields(template: str) -> Counter[str]:
    return Counter(field for _, field, _, _ in string.Formatter().parse(template) if field is not None)


def _invented(part: list[Document]) -> set[str]:
    """Return the invented words of texts and questions, recognised by their syllables alone."""
    words = {
        word.lower()
        for document in part
        for text in (document.text, *(question.text for question in document.questions))
        for word in re.findall(r"[A-Za-z]+", text)
        if INVENTED.fullmatch(word)
    }
    # Some plain words of the templates have such syllables too.
    return words - {word.lower() for word in re.findall(r"[A-Za-z]+", _template_text())}


def _template_text() -> str:
    return " ".join(
        template
        for kind in KINDS.values()
        for fact in kind.facts.values()
        for template in (*kind.openings, *kind.comparisons, *fact.questions, *fact.statements, *fact.clauses)
    )


def _digest(examples: list[Example]) -> str:
    rows = [[example.knowledge, example.input, example.target] for example in examples]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


@pytest.mark.parametrize("arguments", GOLDEN, ids=str)
def test_the_committed_documents_do_not_change(arguments: tuple[Any, ...]) -> None:
    assert _digest(facts(*arguments)) == GOLDEN[arguments]


def test_another_process_with_another_hash_seed_writes_the_same() -> None:
    code = (
        "import hashlib, json\n"
        "from diekae_research.sources.facts import facts\n"
        "rows = [[e.knowledge, e.input, e.target] for e in facts('test', 60, 5)]\n"
        "print(hashlib.sha256(json.dumps(rows).encode()).hexdigest())\n"
    )
    here = _digest(facts("test", 60, 5))
    hash_seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == here
    assert _digest(facts("test", 60, 6)) != here


def test_a_longer_list_begins_with_the_shorter_one() -> None:
    assert facts("train", 100, 1)[:150] == facts("train", 50, 1)


def test_sizes_by_default_and_on_request() -> None:
    assert len(load_source("facts", folder=None, split="train")) == 9000
    assert len(load_source("facts", folder=None, split="validation")) == 900
    test = load_source("facts", folder=None, split="test")
    assert len(test) == len(set(test)) == 900
    assert set(load_source("facts", folder=None, split="test", limit=50)) < set(test)
    assert len(set(load_source("facts", folder=None, split="test", limit=1000))) == 1000
    assert len(facts("test", 7, 0)) == 21


def test_every_split_has_every_kind_in_equal_shares(documents: dict[Split, list[Document]]) -> None:
    assert len(KINDS) >= 10
    for split, part in documents.items():
        assert Counter(document.kind for document in part) == dict.fromkeys(KINDS, COUNTS[split] // len(KINDS))


def test_questions_are_distinct_and_answered_by_the_document(documents: dict[Split, list[Document]]) -> None:
    for document in _flat(documents):
        assert len({question.text for question in document.questions}) == 3
        assert len({question.answer for question in document.questions}) == 3
        for question in document.questions:
            assert re.search(rf"(?<!\w){re.escape(question.answer)}(?!\w)", document.text), (question, document.text)
            assert any(name in question.text for name in document.names)
            assert question.text.endswith("?") and question.text[0].isupper()
            assert question.answer not in question.text


def test_examples_are_the_documents_with_their_questions() -> None:
    [document] = write_documents("train", 1, 3, [KINDS["ship"]])
    expected = [Example((document.text,), question.text, question.answer) for question in document.questions]
    assert facts("train", 1, 3, ["ship"]) == expected


def test_nothing_occurs_twice(documents: dict[Split, list[Document]]) -> None:
    everything = _flat(documents)
    assert len({document.text for document in everything}) == len(everything)
    names = [name for document in everything for name in document.names]
    assert len(set(names)) == len(names)


def test_names_of_one_split_occur_in_no_other_whatever_the_seed(documents: dict[Split, list[Document]]) -> None:
    train = _invented(documents["train"])
    assert len(train) > 3 * COUNTS["train"], "hardly any name was recognised, so the test would show nothing"
    for seed in (0, 1):
        for split in ("validation", "test"):
            other = _invented(write_documents(split, 300, seed, list(KINDS.values())))
            assert len(other) > 900
            assert not train & other
    assert train & _invented(write_documents("train", 1200, 1, list(KINDS.values()))), "even two seeds share no name"


def test_a_second_entity_makes_the_question_matter(documents: dict[Split, list[Document]]) -> None:
    everything = _flat(documents)
    pairs = [document for document in everything if len(document.names) == 2]
    assert 0.3 < len(pairs) / len(everything) < 0.6
    asked = [document for document in pairs if any(document.names[1] in q.text for q in document.questions)]
    assert 0.35 < len(asked) / len(pairs) < 0.65
    for document in pairs:
        assert document.names[1] in document.text


def test_texts_are_plain_and_of_the_promised_size(documents: dict[Split, list[Document]]) -> None:
    lengths = []
    for document in _flat(documents):
        text = document.text
        assert text.isascii() and not re.search(r"[{}\n]|  |\.\.| [.,?]", text), text
        # A title in quotes may begin with an article that is not the one of the sentence.
        assert not re.search(r'(?<!")\b([Aa] (?!uni|one)[aeiou]|[Aa]n [^aeiou"A-Z])', text), text
        lengths.append(len(text.split()))
        assert 4 <= len(re.findall(r"[.](?: |$)", text)) <= 7, text
    assert 45 <= min(lengths) and max(lengths) <= 130
    assert 70 < sum(lengths) / len(lengths) < 100
    assert sum(60 <= length <= 110 for length in lengths) > 0.95 * len(lengths)


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_a_kind_has_enough_facts_and_phrasings(kind: Kind) -> None:
    stated = {key: fact for key, fact in kind.facts.items() if fact.statements}
    assert len(stated) >= 5 and kind.opening_facts and len(set(kind.openings)) >= 5
    assert sum(bool(fact.clauses) for fact in kind.facts.values()) >= 5
    for key, fact in kind.facts.items():
        assert len(set(fact.questions)) >= 4, key
        for question in fact.questions:
            assert _fields(question)["name"] == 1 and set(_fields(question)) <= {"name", "his"}, question
        for clause in fact.clauses:
            assert _fields(clause) == {"value": 1}, clause
    for fact in stated.values():
        assert len(set(fact.statements)) >= 5
        for statement in fact.statements:
            fields = _fields(statement)
            assert fields["value"] == 1, statement
            assert fields["Subject"] + fields["subject"] + fields["Subject's"] == 1, statement
            assert statement.startswith("{Subject}") or not fields["Subject"], statement
            assert statement.startswith("{Subject's}") or not fields["Subject's"], statement
            assert statement.endswith("."), statement
    for opening in kind.openings:
        fields = _fields(opening)
        assert all(fields[key] == 1 for key in kind.opening_facts), opening
    for comparison in kind.comparisons:
        fields = _fields(comparison)
        assert fields["other"] == fields["clause"] == 1, comparison


def test_every_file_of_a_kind_is_listed() -> None:
    folder = files("diekae_research.fiction").joinpath("kinds")
    assert sorted(f"{name}.toml" for name in KINDS) == sorted(path.name for path in folder.iterdir())


def test_templates_are_filled() -> None:
    templates = {
        "year": "<1900 to 1900>",
        "cinema_year": "<later of year and 1915>",
        "film_year": "<2 to 2 after cinema_year>",
        "born": "<day in year>",
        "name": "<person>",
        "she_or_he": "<pronoun of name> and <possessive of name>",
        "family": "the <surname of name> family",
        "emblem": "a(n) <adjectives> <lowercase thing>",
        "title": "{name} in <titles>",
    }
    word_lists = {"adjectives": ["orange"], "titles": ["Love with <town>"]}
    values = draw_values(templates, word_lists, NameMaker("train", random.Random(0)))
    assert [values[key] for key in ("year", "cinema_year", "film_year")] == ["1900", "1915", "1917"]
    assert re.fullmatch(r"\d{1,2} [A-Z][a-z]+ 1900", values["born"])
    first_name, surname = values["name"].split()
    female = first_name in SHARED["first_names"]["female"]
    assert values["she_or_he"] == ("she and her" if female else "he and his")
    assert values["family"] == f"the {surname} family"
    assert re.fullmatch(r"an orange [a-z]+", values["emblem"])
    assert re.fullmatch(rf"{values['name']} in Love with [A-Z][a-z]+", values["title"])
    assert (
        fill("A(n) {value} roof and a(n) {other} roof", {"value": "oak", "other": "tin"})
        == "An oak roof and a tin roof"
    )


def test_unknown_placeholders_are_refused() -> None:
    with pytest.raises(ValueError, match="<colors> is neither a rule .* nor a list .*colours"):
        draw_values({"name": "<colors>"}, SHARED["words"], NameMaker("train", random.Random(0)))
    with pytest.raises(ValueError, match="unknown placeholder {nam} .*there are name"):
        fill("{nam} is old.", {"name": "the Ondrel Tower"})


def test_wrong_requests_are_refused() -> None:
    with pytest.raises(DataError, match="unknown kind 'towers'; there are .*bridge.*Did you mean 'tower'"):
        facts("train", 1, 0, ["towers"])
    with pytest.raises(DataError, match="kinds is empty"):
        facts("train", 1, 0, [])
    with pytest.raises(DataError, match="documents is 0"):
        facts("train", 0, 0)
    with pytest.raises(DataError, match="unknown split 'dev'"):
        facts("dev", 1, 0)  # type: ignore[arg-type]
