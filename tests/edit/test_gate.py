"""Gates: exact mention, and a learned one on a random decoder."""

import dataclasses
import random

import numpy as np
import pytest
import torch

from builders import make_model
from diekae.edit import Edit
from diekae.edit.gate import Entry, MentionGate
from diekae.edit.learned import STAND_IN, GateOptions, LearnedGate, PromptEncoder, States, without_subject
from diekae.edit.names import NearNames, near
from diekae_research.editing.cases import Case
from diekae_research.editing.gate_training import (
    Check,
    Relation,
    choose_thresholds,
    draw_pairs,
    make_checks,
    make_relations,
    read_states,
    train_encoder,
)
from diekae_research.editing.phrasings import Phrasings, misspelt, shortened, split_off

NOTHING = np.zeros(0, np.float32)


def told(*names: str | tuple[str, ...]) -> MentionGate:
    gate = MentionGate()
    entries = []
    for number, given in enumerate(names, 1):
        first, *aliases = (given,) if isinstance(given, str) else given
        entries.append(Entry(number, Edit(f"{first} is", first, f"{number}", tuple(aliases)), NOTHING))
    gate.tell(entries)
    return gate


def test_exact_mention() -> None:
    gate = told("Oslo", "New York", "York", ("United Kingdom", "UK", "U.K."), "Oslo")
    texts = ["Where is Oslo?", "Oslofjord", "oslo", "In New York, York is", "the UK is", "U.K.'s capital", "none", ""]
    assert gate.open(texts) == [[5, 1], [], [], [2, 3], [4], [4], [], []], "longest, whole words, exact, newest first"
    assert MentionGate().open(["Oslo"]) == [[]]


def test_edits_that_are_told_replace_those_before() -> None:
    gate = told("Oslo")
    gate.tell([])
    assert gate.open(["Oslo"]) == [[]]


@pytest.fixture(scope="module")
def states() -> States:
    model = make_model("reader")
    return States(model.decoder, model.need_prompter(), model.anchor, (1, 2))


OPTIONS = GateOptions(layers=(1, 2), heads=2, head_width=8, mentioned=-1.0, nearly=-1.0)


def make_gate(states: States, **options: float) -> LearnedGate:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LearnedGate(states, PromptEncoder(32, OPTIONS), dataclasses.replace(OPTIONS, **options))


def entries(gate: LearnedGate, *edits: Edit) -> list[Entry]:
    vectors = gate.encode(edits)
    return [Entry(number, edit, vector) for number, (edit, vector) in enumerate(zip(edits, vectors, strict=True), 1)]


def test_a_text_has_the_same_vector_alone_and_among_longer_ones(states: States) -> None:
    texts = ["the red house is", "the old king of the island by the sea is in the castle", "wind"]
    together, apart = make_gate(states).vectors(texts), make_gate(states)
    for text in texts:
        np.testing.assert_allclose(together[text], apart.vectors([text])[text], atol=1e-5)
        assert np.linalg.norm(together[text]) == pytest.approx(1, abs=1e-5)


def test_vectors_tell_what_is_asked_whoever_it_is_asked_of(states: States) -> None:
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


def test_of_one_subject_the_likest_edit_speaks_and_the_newer_of_equals(states: States) -> None:
    gate = make_gate(states, mentioned=0.999)
    first, second = Edit("the house is near", "house", "one"), Edit("by the sea the house was built", "house", "two")
    gate.tell(entries(gate, first, second, Edit("the house is near ", "house", "three")))
    assert gate.open([first.prompt, second.prompt, "the house had"]) == [[3], [2], []]


def test_a_subject_that_is_nearly_named_must_be_asked_the_like(states: States) -> None:
    edits = Edit("the old castle is near", "old castle", "one"), Edit("the bridge was", "bridge", "two")
    texts = ["the old caslte is near", "the bridge is near", "the sea is near"]
    for nearly, expected in ((0.999, [1]), (1.1, [])):
        gate = make_gate(states, mentioned=0.999, nearly=nearly)
        gate.tell(entries(gate, *edits))
        assert gate.open(texts) == [expected, [], []]
    both = "the bridge was by the old caslte"
    gate = make_gate(states, mentioned=-1.0)
    gate.tell(entries(gate, *edits))
    assert gate.open([both]) == [[2]], "a name to the letter goes first"
    gate.options = dataclasses.replace(OPTIONS, mentioned=1.1)
    assert gate.open([both]) == [[1]], "one that is asked something else hides no other"


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("Danielle Darrieux", "Rain. Danielle Darieux spoke", "Danielle Darieux"),
        ("Danielle Darrieux", "Rain. danielle darrieux spoke", "danielle darrieux"),
        ("Danielle Darrieux", "Rain. Darrieux, an actress", "Darrieux"),
        ("Danielle Darrieux", "What is Darrieux's mother tongue", "Darrieux"),
        ("Danielle Darrieux", "Rain. Danielle Steel spoke", None),
        ("Danielle Darrieux", "with Michel Darrieux she", None),
        ("Danielle Darrieux", "Rain. Daniel Barenboim spoke", None),
        ("Coke County", "Bexar County can be found in", None),
        ("Ernest Picard", "The mother tongue of Jean-Luc Picard is", None),
        ("Connecticut Route 183", "Connecticut Route 150, in", None),
        ("Ernest Picard", "In Picard's words", "Picard"),
        ("Jazz Band of Preservation Hall", "In Preservation Hall they", "Preservation Hall"),
        ("Niger", "Nigerian traditional states", None),
        ("New York", "New Zealand is", None),
        ("South Africa", "South Korea is", None),
        ("Oslo", "Bergen is", None),
        ("Straßburg", "the town of Strassburg is", "Strassburg"),
        ("Oslo", "", None),
    ],
)
def test_names_that_are_nearly_there(name: str, text: str, found: str | None) -> None:
    span = near(name, text)
    assert (span and text[slice(*span)]) == found
    named = NearNames(["Reykjavik", name]).find(text)
    assert [text[place.start : place.end] for place in named] == ([found] if found else [])


def test_the_likest_name_comes_first() -> None:
    names = NearNames(["Anderson Islands", "Andersson Island", "Sanderson Island"])
    assert [place.which for place in names.find("Anderson Island is")] == [0, 1, 2]
    assert NearNames([]).find("Anderson") == [] == NearNames(["x"]).find("")


def test_conflicts_are_other_answers_to_like_prompts_of_one_subject(states: States) -> None:
    gate = make_gate(states)
    known = entries(
        gate,
        Edit("the house is", "house", "one"),
        Edit("the house is in the", "house", "two"),
        Edit("the tower is", "tower", "two"),
    )
    like = float(known[0].vector @ known[1].vector)
    gate.options = dataclasses.replace(OPTIONS, mentioned=like - 1e-3)
    assert gate.conflicts(known[1], [known[0], known[2]]) == [1]
    gate.options = dataclasses.replace(OPTIONS, mentioned=like + 1e-3)
    assert gate.conflicts(known[1], [known[0], known[2]]) == []


def test_training_brings_inputs_nearer_to_what_they_ask(states: States) -> None:
    asked = {
        "place": ("{} is near", "where is {}", "by {}"),
        "age": ("{} is old", "when was {}", "{} was in the year"),
        "look": ("{} is red", "how is {}", "{} was green"),
        "owner": ("{} of the king", "who had {}", "{} has a"),
    }
    relations = [
        Relation([text.replace("{}", STAND_IN) for text in texts], [f"the sea. {t}".replace("{}", "X") for t in texts])
        for texts in asked.values()
    ]
    read = read_states(states, [text for r in relations for text in (*r.keys, *r.inputs)], lambda *_: None)
    encoder, losses = train_encoder(read, [relations], OPTIONS, steps=60, rate=1e-2)
    assert np.mean(losses[-5:]) < 0.5 * losses[0]
    assert losses == train_encoder(read, [relations], OPTIONS, steps=60, rate=1e-2)[1], "the same seed learns the same"
    checks = [
        Check("tower", "tower is near", "the sea. where is tower", "where is towre", "who had tower"),
        Check("castle", "castle of the king", "the sea. who had castle", "who had caslte", "castle is red"),
    ]
    gate = LearnedGate(states, encoder, OPTIONS)
    options, likeness = choose_thresholds(gate, checks)
    assert np.mean(likeness["told"]) > np.mean(likeness["other"]) and likeness["wrong"] == [-1.0] * 4
    assert options.mentioned == options.nearly == pytest.approx(min(likeness["told"]), abs=0.02)


def test_what_is_drawn_has_as_much_of_each_source() -> None:
    sources = [[Relation([f"k{n}"], [f"i{n}"]) for n in range(9)], [Relation(["k9"], ["i9"])]]
    pairs = draw_pairs(sources, random.Random(0))
    assert {(key[1:], text[1:]) for number, key, text in pairs} == {(str(n), str(n)) for n, _, _ in pairs}
    assert sum(number == 9 for number, _, _ in pairs) == len(pairs) / 2


def case(number: int, subject: str, prompt: str, beside: str, told: str | None = None) -> Case:
    return Case(number, prompt, subject, "new", "old", (told,) if told else (), (beside,))


def test_phrasings_are_found_in_the_cases() -> None:
    cases = [case(n, f"P{n}", f"P{n} was born in", f"Q{n} is native to", f"Rain. P{n} is native to") for n in range(4)]
    cases += [case(9 + n, f"P{n}", f"P{n} plays the", f"Q{n} plays the") for n in range(4)]
    cases += [case(20 + n, f"Z{n}", f"Z{n} is native to", f"Q{n} is native to") for n in range(4)]
    found = Phrasings.find(cases)
    assert found.relations["{} was born in"] == found.relations["{} is native to"] != found.relations["{} plays the"]
    assert set(found.prefixes) == {"Rain."}
    draw = random.Random(0)
    assert found.reworded(cases[0], draw) == "P0 is native to"
    assert found.elsewhere(cases[0], draw) == "P0 plays the"
    assert found.behind("x", draw) == "Rain. x"
    assert split_off(cases[0], "P0 is native to", ["{} is native to"]) == ("{} is native to", "")
    assert split_off(cases[0], "Rain. P0 is native to", ["{} is native to", "{}"]) == ("{} is native to", "Rain.")
    assert split_off(cases[0], "P0 fell", ["{} is native to"]) == (None, "")
    made = {relation.keys[0]: relation.inputs for relation in make_relations(cases[:4], found, 0)}
    assert set(made) == {"X is native to", "X plays the"} and "Rain. X is native to" in made["X is native to"]
    (check,) = make_checks(cases[:1], found, 0)
    assert check.told == "Rain. P0 is native to" and check.other == "P0 plays the" and check.unsure != check.told


def test_a_paraphrase_joins_templates_of_questions() -> None:
    cases = [
        Case(n, f"Who made P{n}?", f"P{n}", "new", "old", (f"P{n} is by whom?",), (), format="qa") for n in range(2)
    ]
    cases.append(Case(2, "When was Q built?", "Q", "new", "old", (), (), format="qa"))
    found = Phrasings.find(cases)
    assert found.relations["Who made {}?"] == found.relations["{} is by whom?"] != found.relations["When was {} built?"]


def test_letters_are_changed_and_words_left_out() -> None:
    draw = random.Random(0)
    for _ in range(50):
        changed = misspelt("Danielle", draw)
        assert changed != "Danielle" and abs(len(changed) - 8) <= 1 and changed[0] == "D"
    assert shortened("Danielle", draw) is None and shortened("Al Be", draw) is None
    assert shortened("Danielle Darrieux", draw) in ("Danielle", "Darrieux")


@pytest.mark.parametrize(
    ("prompt", "subject", "asked"),
    [
        ("Go is by Google", "Go", "X is by Google"),
        ("When did the Romans end", "Roman", "When did the Xs end"),
        ("Who is in AC/DC (band)?", "AC/DC (band)", "Who is in X?"),
    ],
)
def test_the_subject_is_taken_out_as_a_whole_word(prompt: str, subject: str, asked: str) -> None:
    assert without_subject(Edit(prompt, subject, "one")) == asked
