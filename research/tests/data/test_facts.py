"""The invented documents: what they promise to a training run and to a test of it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import string
import subprocess
import sys
from collections import Counter
from typing import get_args

import pytest

from diekae.data import DataError, Example, Split, load_source
from diekae_research.fiction import KINDS, Document, write_documents
from diekae_research.fiction.kind import Kind
from diekae_research.fiction.words import MEDIALS, ONSETS, SURNAME_ENDINGS, THING_ENDINGS, TOWN_ENDINGS, VOWELS
from diekae_research.sources.facts import facts

SPLITS: tuple[Split, ...] = get_args(Split)
COUNTS = {"train": 1200, "validation": 300, "test": 300}
INVENTED = re.compile(
    rf"(?:{'|'.join(ONSETS)})(?:{'|'.join(VOWELS)})(?:{'|'.join(MEDIALS)})"
    rf"(?:{'|'.join((*SURNAME_ENDINGS, *TOWN_ENDINGS, *THING_ENDINGS))})",
    re.IGNORECASE,
)


@pytest.fixture(scope="module")
def documents() -> dict[Split, list[Document]]:
    return {split: write_documents(split, COUNTS[split], 0, list(KINDS.values())) for split in SPLITS}


def _flat(documents: dict[Split, list[Document]]) -> list[Document]:
    return [document for part in documents.values() for document in part]


def _fields(template: str) -> Counter[str]:
    return Counter(field for _, field, _, _ in string.Formatter().parse(template) if field is not None)


def _invented(part: list[Document]) -> set[str]:
    """The invented words of the texts and questions, found by their syllables and not by how they came about."""
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
        for template in (*kind.openings, *kind.leads, *fact.questions, *fact.statements, *fact.contrasts)
    )


def _digest(examples: list[Example]) -> str:
    rows = [[example.knowledge, example.input, example.target] for example in examples]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def test_another_process_with_another_hash_seed_writes_the_same() -> None:
    code = (
        "import hashlib, json\n"
        "from diekae_research.sources.facts import facts\n"
        "rows = [[e.knowledge, e.input, e.target] for e in facts('test', 60, 5)]\n"
        "print(hashlib.sha256(json.dumps(rows).encode()).hexdigest())\n"
    )
    here = _digest(facts("test", 60, 5))
    for hash_seed in ("1", "2"):
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
    assert len(train) > 3 * COUNTS["train"], "hardly any name was recognised, so nothing would be shown"
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
    assert len(stated) >= 5 and kind.opening_keys and len(set(kind.openings)) >= 5
    assert sum(bool(fact.contrasts) for fact in kind.facts.values()) >= 5
    for key, fact in kind.facts.items():
        assert len(set(fact.questions)) >= 4, key
        for question in fact.questions:
            assert _fields(question)["n"] == 1 and set(_fields(question)) <= {"n", "his"}, question
        for clause in fact.contrasts:
            assert _fields(clause)["v"] == 1 and set(_fields(clause)) <= {"v", "a"}, clause
    for fact in stated.values():
        assert len(set(fact.statements)) >= 5
        for statement in fact.statements:
            fields = _fields(statement)
            assert fields["v"] == 1 and fields["S"] + fields["s"] + fields["P"] == 1, statement
            assert statement.startswith("{S}") or not fields["S"], statement
            assert statement.startswith("{P}") or not fields["P"], statement
            assert statement.endswith("."), statement
    for opening in kind.openings:
        fields = _fields(opening)
        assert all(fields[key] == 1 for key in kind.opening_keys), opening


def test_wrong_requests_are_refused() -> None:
    with pytest.raises(DataError, match="unknown kind 'towers', did you mean 'tower'.*there are .*bridge"):
        facts("train", 1, 0, ["towers"])
    with pytest.raises(DataError, match="no kind was named"):
        facts("train", 1, 0, [])
    with pytest.raises(DataError, match="documents is 0"):
        facts("train", 0, 0)
    with pytest.raises(DataError, match="unknown split 'dev'"):
        facts("dev", 1, 0)  # type: ignore[arg-type]
