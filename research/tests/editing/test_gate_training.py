"""Training of the learned gate: it learns, and what it learns from."""

import random

import numpy as np
import pytest

from builders import make_model
from diekae.edit.learned_gate import STAND_IN, LearnedGate
from diekae.edit.prompt_encoder import GateOptions, StateReader
from diekae_research.data.case import Case
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

OPTIONS = GateOptions(layers=(1, 2), heads=2, head_width=8, mentioned=-1.0, nearly=-1.0)


@pytest.fixture(scope="module")
def states() -> StateReader:
    model = make_model("reader")
    return StateReader(model.decoder, model.need_prompter(), (1, 2))


def test_training_brings_inputs_nearer_to_what_they_ask(states: StateReader) -> None:
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
    assert np.mean(likeness["reworded"]) > np.mean(likeness["other"]) and likeness["wrong"] == [-1.0] * 4
    assert options.mentioned == options.nearly == pytest.approx(min(likeness["reworded"]), abs=0.02)


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
    assert (
        check.reworded == "Rain. P0 is native to" and check.other == "P0 plays the" and check.inexact != check.reworded
    )


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
