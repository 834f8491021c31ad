"""Gates: exact mention, and a learned one on a random decoder."""

import dataclasses
import unicodedata

import numpy as np
import pytest
import torch

from builders import make_model
from diekae.edit import Edit
from diekae.edit.gate import GateEntry, MentionGate
from diekae.edit.learned_gate import LearnedGate, without_subject
from diekae.edit.prompt_encoder import GateOptions, PromptEncoder, StateReader

NOTHING = np.zeros(0, np.float32)


def mention_gate(*names: str | tuple[str, ...]) -> MentionGate:
    gate = MentionGate()
    entries = []
    for number, name in enumerate(names, 1):
        first, *aliases = (name,) if isinstance(name, str) else name
        entries.append(GateEntry(number, Edit(f"{first} is", first, f"{number}", tuple(aliases)), NOTHING))
    gate.set_edits(entries)
    return gate


def test_exact_mention() -> None:
    gate = mention_gate("Oslo", "New York", "York", ("United Kingdom", "UK", "U.K."), "Oslo")
    texts = ["Where is Oslo?", "Oslofjord", "oslo", "In New York, York is", "the UK is", "U.K.'s capital", "none", ""]
    assert gate.open(texts) == [[5, 1], [], [], [2, 3], [4], [4], [], []], "longest, whole words, exact, newest first"
    assert MentionGate().open(["Oslo"]) == [[]]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("东京", "日本的首都东京在哪里？"),
        ("東京", "東京の人口は？"),
        ("東京", "東京Towerは"),
        ("ガンダム", "機動戦士ガンダムは誰が作った？"),
        ("ガンダム", "機動戦士ｶﾞﾝﾀﾞﾑは誰が作った？"),
        ("서울", "서울의 인구는?"),
        ("กรุงเทพ", "ประชากรของกรุงเทพคือ"),
        ("Oslo", "在Oslo的人口"),
        ("दिल्ली", "दिल्ली की"),
        ("Istanbul", "Where is İSTANBUL?"),
        ("Istanbul", "Where is ISTANBUL?"),
        ("Straße", "Die STRASSE ist"),
        ("red house", "Red house is"),
        ("Jose\u0301", "Where is José from?"),
        ("José", "Where is Jose\u0301 from?"),
        ("서울", unicodedata.normalize("NFD", "서울의 인구는?")),
        ("New York", "In Ｎｅｗ　Ｙｏｒｋ they"),
        ("New York", "In New\nYork they"),
    ],
)
def test_another_spelling_of_a_name_is_the_name(name: str, text: str) -> None:
    assert mention_gate("Other", name).open([text]) == [[2]]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("US", "give it to us"),
        ("Apple", "an apple is"),
        ("Oslo", "Oslofjord"),
        ("Jose", "José is"),
        ("Jose", "Jose\u0301 is"),
        ("서우", "서울의"),
        ("서우", unicodedata.normalize("NFD", "서울의")),
        ("दिल", "दिल्ली की"),
        ("ก", "กี่"),
        ("Müller", "Muller is"),
    ],
)
def test_another_word_is_not_the_name(name: str, text: str) -> None:
    assert mention_gate(name).open([text]) == [[]]


def test_edits_of_one_name_in_several_spellings_apply_newest_first() -> None:
    assert mention_gate("Istanbul", "İSTANBUL", "Istanbul").open(["İSTANBUL", "Istanbul"]) == [[3, 2, 1], [3, 1]]


def test_new_edits_replace_the_earlier_ones() -> None:
    gate = mention_gate("Oslo")
    gate.set_edits([])
    assert gate.open(["Oslo"]) == [[]]


@pytest.fixture(scope="module")
def states() -> StateReader:
    model = make_model("reader")
    return StateReader(model.decoder, model.need_prompter(), (1, 2))


OPTIONS = GateOptions(layers=(1, 2), heads=2, head_width=8, mentioned=-1.0, nearly=-1.0)


def make_gate(states: StateReader, **options: float) -> LearnedGate:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LearnedGate(states, PromptEncoder(32, OPTIONS), dataclasses.replace(OPTIONS, **options))


def entries(gate: LearnedGate, *edits: Edit) -> list[GateEntry]:
    vectors = gate.encode(edits)
    return [
        GateEntry(number, edit, vector) for number, (edit, vector) in enumerate(zip(edits, vectors, strict=True), 1)
    ]


def test_a_text_has_the_same_vector_alone_and_among_longer_ones(states: StateReader) -> None:
    texts = ["the red house is", "the old king of the island by the sea is in the castle", "wind"]
    together, apart = make_gate(states).vectors(texts), make_gate(states)
    for text in texts:
        np.testing.assert_allclose(together[text], apart.vectors([text])[text], atol=1e-5)
        assert np.linalg.norm(together[text]) == pytest.approx(1, abs=1e-5)


def test_vectors_depend_on_the_question_and_not_on_the_subject(states: StateReader) -> None:
    gate = make_gate(states)
    one, same, other, question = gate.encode(
        [
            Edit("the red house is", "red house", "old"),
            Edit("the island is", "island", "old"),
            Edit("by the sea the island is", "island", "old"),
            Edit("Question: the island is\nAnswer:", "island", "old"),
        ]
    )
    assert np.array_equal(one, same) and np.array_equal(one, question) and not np.allclose(one, other, atol=1e-3)


def test_the_most_similar_edit_of_a_subject_applies_and_the_newer_of_equals(states: StateReader) -> None:
    gate = make_gate(states, mentioned=0.999)
    first, second = Edit("the house is near", "house", "one"), Edit("by the sea the house was built", "house", "two")
    gate.set_edits(entries(gate, first, second, Edit("the house is near ", "house", "three")))
    assert gate.open([first.prompt, second.prompt, "the house had"]) == [[3], [2], []]


def test_a_misspelt_subject_needs_a_similar_question(states: StateReader) -> None:
    edits = Edit("the old castle is near", "old castle", "one"), Edit("the bridge was", "bridge", "two")
    texts = ["the old caslte is near", "the bridge is near", "the sea is near"]
    for nearly, expected in ((0.999, [1]), (1.1, [])):
        gate = make_gate(states, mentioned=0.999, nearly=nearly)
        gate.set_edits(entries(gate, *edits))
        assert gate.open(texts) == [expected, [], []]
    both = "the bridge was by the old caslte"
    gate = make_gate(states, mentioned=-1.0)
    gate.set_edits(entries(gate, *edits))
    assert gate.open([both]) == [[2]], "an exact name comes first"
    gate.options = dataclasses.replace(OPTIONS, mentioned=1.1)
    assert gate.open([both]) == [[1]], "an exact name with another question hides no near one"


@pytest.mark.parametrize(
    ("prompt", "subject", "text"),
    [
        ("東京の人口は", "東京", "東京の人口は"),
        ("José is", "José", "Jose\u0301 is"),
        ("Jose\u0301 is", "Jose\u0301", "José is"),
        ("Istanbul is", "Istanbul", "İSTANBUL is"),
        ("Istanbul is", "Istanbul", "istanbul is"),
        ("Wałęsa Mieczysław is", "Wałęsa Mieczysław", unicodedata.normalize("NFD", "Wałęsa Mieczyslaw is")),
    ],
)
def test_the_question_about_another_spelling_is_the_same(
    states: StateReader, prompt: str, subject: str, text: str
) -> None:
    gate = make_gate(states, mentioned=0.9999, nearly=0.9999)
    gate.set_edits(entries(gate, Edit("the tower is", "tower", "old"), Edit(prompt, subject, "old")))
    assert gate.open([text]) == [[2]]


def test_conflicts_are_other_targets_of_similar_prompts_about_one_subject(states: StateReader) -> None:
    gate = make_gate(states)
    all_entries = entries(
        gate,
        Edit("the house is", "house", "one"),
        Edit("the house is in the", "house", "two"),
        Edit("the tower is", "tower", "two"),
    )
    similarity = float(all_entries[0].vector @ all_entries[1].vector)
    gate.options = dataclasses.replace(OPTIONS, mentioned=similarity - 1e-3)
    assert gate.conflicts(all_entries[1], [all_entries[0], all_entries[2]]) == [1]
    gate.options = dataclasses.replace(OPTIONS, mentioned=similarity + 1e-3)
    assert gate.conflicts(all_entries[1], [all_entries[0], all_entries[2]]) == []


@pytest.mark.parametrize(
    ("prompt", "subject", "question"),
    [
        ("Go is by Google", "Go", "X is by Google"),
        ("When did the Romans end", "Roman", "When did the Xs end"),
        ("Who is in AC/DC (band)?", "AC/DC (band)", "Who is in X?"),
    ],
)
def test_the_subject_is_replaced_as_a_whole_word(prompt: str, subject: str, question: str) -> None:
    assert without_subject(Edit(prompt, subject, "one")) == question
