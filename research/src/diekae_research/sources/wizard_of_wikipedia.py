"""Wizard of Wikipedia: a wizard who reads passages talks to an apprentice who does not (Dinan et al., 2019).

``train.json``, ``{valid,test}_topic_split.json`` and ``{valid,test}_random_split.json``:

    [{"chosen_topic": "Science fiction", "persona": "i enjoy movies about aliens invading the earth.", "wizard_eval": 5,
      "dialog": [{"speaker": "0_Wizard", "text": "I think science fiction is an amazing genre for anything. [...]",
                  "checked_sentence": {"chosen_Science_fiction_0": "Science fiction (often shortened to SF [...]"},
                  "checked_passage": {"chosen_topic_0_Science_fiction": "Science fiction"}, ...},
                 {"speaker": "1_Apprentice", "text": "I'm a huge fan of science fiction myself! ", ...}, ...]}]

Where all of them are missing, ``turns-544.csv``, single turns of the validation data, divided by a hash of the topic:

    episode_idx,round,topic,message,knowledge,gold
    9,4,Penguin Random House,What else do you know about the merger?,"Random House and Penguin Group, the parent
    companies, own 75% and 25%, respectively.","Random House owns 75% of the company, and Penguin group owns 25%."

Licence: CC BY 4.0 (the single turns MIT). Upstream: parl.ai/projects/wizard_of_wikipedia (checksum: ParlAI's build.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from diekae.data.example import Example
from diekae.data.splits import split_of
from diekae_research.data.card import Card, Option, Upstream
from diekae_research.data.marks import dialogue, one_line
from diekae_research.data.request import Request

_TURNS = "turns-544.csv"
_COLUMNS = ("topic", "message", "knowledge", "gold")
_GOOD = 4
_NONE = "no_passages_used"
CARD = Card(
    title="Wizard of Wikipedia (Dinan et al., 2019)",
    licence="CC BY 4.0; the single turns MIT",
    homepage="https://parl.ai/projects/wizard_of_wikipedia",
    origin="parl.ai/projects/wizard_of_wikipedia",
    upstream=(
        Upstream(
            "wizard_of_wikipedia.tgz",
            "http://parl.ai/downloads/wizard_of_wikipedia/wizard_of_wikipedia.tgz",
            "2a549627a83fea745efa2076a41d1c0078ad002ab2b54eae6a4e3d3d66ae24b7",
            inner="",
        ),
    ),
    paper=(70438, 3779, 3544),
    options={
        "all_ratings": Option(False, "dialogues of every rating, not only those that the apprentice rated 4 or 5"),
        "seen_topics": Option(False, "validate and test on topics of the training, not on unseen ones"),
    },
    note="turns that used no passage are kept apart: their knowledge would be made from the answer",
)


def load(request: Request) -> Iterator[Example]:
    """Return what the wizard says: persona and the sentence it chose as knowledge, the talk so far as input.

    A turn that used no passage leaks: the paper paraphrases the answer as its knowledge; here the answer is used.
    """
    ending = "random_split" if request.options["seen_topics"] else "topic_split"
    names = {"train": "train.json", "validation": f"valid_{ending}.json", "test": f"test_{ending}.json"}
    if request.there(_TURNS) and not any(request.there(name) for name in names.values()):
        turns = request.convert(request.rows(_TURNS, _COLUMNS), _turn)
        return (example for topic, example in turns if split_of(topic) == request.split)
    least = 0 if request.options["all_ratings"] else _GOOD
    return request.convert(
        request.entries(names[request.split]),
        lambda entry: _wizard(entry) if entry["wizard_eval"] >= least else (),
    )


def _wizard(entry: dict[str, Any]) -> Iterator[Example]:
    talk: list[tuple[str, str]] = []
    for turn in entry["dialog"]:
        speaker = "wizard" if "wizard" in turn["speaker"].lower() else "apprentice"
        text = one_line(turn["text"])
        if text and speaker == "wizard":
            chosen = _chosen(turn)
            knowledge = (one_line(entry["persona"]), chosen or text)
            yield Example(tuple(filter(None, knowledge)), dialogue(talk, "wizard"), text, leaks=not chosen)
        if text:
            talk.append((speaker, text))


def _chosen(turn: dict[str, Any]) -> str:
    """Return the sentence the wizard chose, or the passage if no sentence is named; empty if it used none."""
    for checked in (turn["checked_sentence"], turn["checked_passage"]):
        if _NONE in checked:
            return ""
        if checked:
            return one_line(next(iter(checked.values())))
    return ""


def _turn(row: dict[str, Any]) -> Iterator[tuple[str, Example]]:
    knowledge, message, gold = (one_line(row[name]) for name in ("knowledge", "message", "gold"))
    yield row["topic"], Example((knowledge,), dialogue([("apprentice", message)], "wizard"), gold)
