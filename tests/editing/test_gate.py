"""Gates: exact mention, and a learned one on a random decoder."""

import numpy as np
import pytest
import torch
from builders import make_model

from diekae.editing import Edit
from diekae.editing.cases import Case
from diekae.editing.gate import Entry, MentionGate
from diekae.editing.gate_training import Group, choose_thresholds, contrast, read_states, texts_of, train_encoder
from diekae.editing.learned import GateOptions, LearnedGate, PromptEncoder, States, resembles
from diekae.editing.phrasings import Phrasings, misspelt, prefix_of, shortened

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


OPTIONS = GateOptions(layers=(1, 2), heads=2, head_width=8, mentioned=0.5, alone=0.9)


def make_gate(states: States, options: GateOptions = OPTIONS) -> LearnedGate:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LearnedGate(states, PromptEncoder(32, options), options)


def entries(gate: LearnedGate, *edits: Edit) -> list[Entry]:
    vectors = gate.encode([edit.prompt for edit in edits])
    return [Entry(number, edit, vector) for number, (edit, vector) in enumerate(zip(edits, vectors, strict=True), 1)]


def test_a_text_has_the_same_vector_alone_and_among_longer_ones(states: States) -> None:
    gate = make_gate(states)
    texts = ["the red house is", "the old king of the island by the sea is in the castle", "wind"]
    together = gate.encode(texts)
    apart = np.concatenate([gate.encode([text]) for text in texts])
    np.testing.assert_allclose(together, apart, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(gate.encode(["Question: the red house is\nAnswer:"]), together[:1], atol=1e-5)


def test_of_one_subject_the_likest_edit_speaks_and_the_newer_of_equals(states: States) -> None:
    gate = make_gate(states)
    first, second = Edit("the house is near", "house", "one"), Edit("by the sea the house was built", "house", "two")
    gate.tell(entries(gate, first, second, Edit("the house is near ", "house", "three")))
    assert gate.open([first.prompt, second.prompt]) == [[3], [2]]


def test_without_a_mention_only_a_very_like_edit_speaks(states: States) -> None:
    edit = Edit("the old house by the lake is", "house", "one")
    for alone, expected in ((-1.0, [1]), (1.1, [])):
        gate = make_gate(states, GateOptions(**{**vars(OPTIONS), "alone": alone}))
        gate.tell(entries(gate, edit))
        assert gate.open(["the old horse by the lake is"]) == [expected]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("Danielle Darrieux", "Rain. Danielle Darieux spoke", True),
        ("Danielle Darrieux", "Rain. Darrieux spoke", True),
        ("Danielle Darrieux", "Rain. Daniel Barenboim spoke", False),
        ("New York", "New Zealand is", False),
        ("South Africa", "South Korea is", False),
        ("Oslo", "Bergen is", False),
    ],
)
def test_names_that_are_nearly_there(name: str, text: str, expected: bool) -> None:
    assert resembles(name, text) is expected


def test_conflicts_are_other_answers_to_like_prompts_of_one_subject(states: States) -> None:
    gate = make_gate(states, GateOptions(**{**vars(OPTIONS), "alone": 0.95}))
    known = entries(
        gate,
        Edit("the house is", "house", "one"),
        Edit("the house is  in", "house", "two"),
        Edit("the tower is", "tower", "two"),
    )
    like = float(known[0].vector @ known[1].vector)
    gate.options = GateOptions(**{**vars(OPTIONS), "alone": like - 1e-3})
    assert gate.conflicts(known[1], [known[0], known[2]]) == [1]
    gate.options = GateOptions(**{**vars(OPTIONS), "alone": like + 1e-3})
    assert gate.conflicts(known[1], [known[0], known[2]]) == []


def test_training_brings_other_words_nearer_than_other_subjects(states: States) -> None:
    things = ("house", "tower", "bridge", "castle", "boat", "door", "garden", "wall")
    asked = [(f"where is the {thing}", f"by the {thing}") for thing in things]
    groups = [
        Group("near", (thing, "near"), f"the {thing} is near", words, f"the {thing} was red")
        for thing, words in zip(things, asked, strict=True)
    ]
    read = read_states(states, texts_of(groups), lambda *_: None)
    encoder, losses = train_encoder(read, groups, OPTIONS, steps=60, rate=1e-2)
    with torch.no_grad():
        assert float(contrast(encoder, read, groups)) < 0.5 * losses[0]
    gate = LearnedGate(states, encoder, OPTIONS)
    options, near = choose_thresholds(gate, groups, read, [])
    assert np.mean(near["told"]) > np.mean(near["wrong"]) and -1 < options.mentioned < 1
    assert options.nearly <= options.alone < 1.01
    gate.options = options
    gate.tell(entries(gate, *(Edit(group.key, thing, "x") for group, thing in zip(groups, things, strict=True))))
    assert gate.open([group.queries[0] for group in groups]) == [[n] for n in range(1, len(things) + 1)]
    assert losses == train_encoder(read, groups, OPTIONS, steps=60, rate=1e-2)[1], "the same seed learns the same"


def case(number: int, subject: str, prompt: str, near: str, told: str | None = None) -> Case:
    return Case(number, prompt, subject, "new", "old", (told,) if told else (), (near,))


def test_phrasings_are_found_in_the_cases() -> None:
    cases = [case(n, f"P{n}", f"P{n} was born in", f"Q{n} is native to", f"Rain. P{n} is native to") for n in range(4)]
    cases += [case(9 + n, f"P{n}", f"P{n} plays the", f"Q{n} plays the") for n in range(4)]
    cases += [case(20 + n, f"Z{n}", f"Z{n} is native to", f"Q{n} is native to") for n in range(4)]
    found = Phrasings.find(cases)
    assert found.relations["{} was born in"] == found.relations["{} is native to"] != found.relations["{} plays the"]
    assert set(found.prefixes) == {"Rain."}
    import random

    draw = random.Random(0)
    assert found.reworded(cases[0], draw) == "P0 is native to"
    assert found.elsewhere(cases[0], draw) == "P0 plays the"
    assert found.behind("x", draw) == "Rain. x"
    assert prefix_of(cases[0], "P0 is native to", ["{} is native to"]) == []
    for _ in range(50):
        changed = misspelt("Danielle", draw)
        assert changed != "Danielle" and abs(len(changed) - 8) <= 1 and changed[0] == "D"
    assert shortened("Danielle", draw) is None and shortened("Al Be", draw) is None
    assert shortened("Danielle Darrieux", draw) in ("Danielle", "Darrieux")
