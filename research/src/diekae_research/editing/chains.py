"""What an edit implies and nobody has told: the capital, or the language, of the country that an edit names.

CounterFact itself says which capital and language countries have (the true objects of its cases about countries). An
edit that moves a subject from one such country to another implies another capital and language for whoever asks of the
subject's country.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from diekae_research.editing.cases import Case
from diekae_research.editing.phrasings import template
from diekae_research.editing.scores import prompt_of, says
from diekae_research.methods import Fitted

if TYPE_CHECKING:
    from diekae_research.editing.measure import Bench

PLACES = {
    "located in": "the country where {} is located",
    "can be found in": "the country where {} is located",
    "citizen": "the country that {} is a citizen of",
    "created in": "the country where {} was created",
    "developed in": "the country where {} was created",
    "originated in": "the country where {} was created",
    "formed in": "the country where {} was formed",
}
"""How a subject's country is called, by words of the edit's template."""
ASKED = {"capital": "The capital of {} is", "language": "The official language of {} is"}


class Chain(NamedTuple):
    """One question that an edit implies another answer to."""

    case: Case
    """The edit."""
    question: str
    """What is asked, in two steps."""
    answer: str
    """What follows from the edit."""
    before: str
    """What followed before."""


def find_chains(everything: Sequence[Case], cases: Sequence[Case], number: int) -> list[Chain]:
    """Return questions that cases imply, at most so many of a kind.

    Args:
        everything: Cases that tell capitals and languages.
        cases: Whose edits are followed up.
        number: Questions of a kind at most.
    """
    known: dict[str, dict[str, str]] = {"capital": {}, "language": {}}
    for case in everything:
        for kind, mark in (("capital", "capital"), ("language", "official language")):
            if mark in template(case):
                known[kind].setdefault(case.subject, case.true)
    chains = []
    for kind, facts in known.items():
        found = []
        for case in cases:
            place = next((text for mark, text in PLACES.items() if mark in template(case)), None)
            new, old = facts.get(case.new), facts.get(case.true)
            if place and new and old and new != old:
                found.append(Chain(case, ASKED[kind].format(place.format(case.subject)), new, old))
        chains += found[:number]
    return chains


def score_chains(bench: Bench, fitted: Fitted, chains: Sequence[Chain]) -> dict[str, Any]:
    """Return at how many questions, in per cent, the implied answer is likelier than the old, and is generated."""
    if not chains:
        return {"n": 0, "likelier": None, "generated": None}
    rows = [
        prompt_of(bench.prompter, chain.case, chain.question, target)
        for chain in chains
        for target in (chain.answer, chain.before)
    ]
    total = bench.nll(fitted, rows).total.reshape(-1, 2)
    texts = bench.texts(fitted, rows[::2])
    said = [says(text, chain.answer)[1] for text, chain in zip(texts, chains, strict=True)]
    likelier = 100 * float(np.mean(total[:, 0] < total[:, 1]))
    return {"n": len(chains), "likelier": likelier, "generated": 100 * float(np.mean(said))}
