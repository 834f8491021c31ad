"""What an edit implies: the capital, or the language, of the country that it names.

CounterFact says which capital and language countries have (the true objects of its cases about countries). An edit that
moves a subject from one country to another implies another capital and language of the subject's country.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from diekae_research.editing.cases import Case
from diekae_research.editing.phrasings import template
from diekae_research.editing.scores import matches, prompt_of
from diekae_research.methods import Fitted

if TYPE_CHECKING:
    from diekae_research.editing.measure import EditBench

PLACES = {
    "located in": "the country where {} is located",
    "can be found in": "the country where {} is located",
    "citizen": "the country that {} is a citizen of",
    "created in": "the country where {} was created",
    "developed in": "the country where {} was created",
    "originated in": "the country where {} was created",
    "formed in": "the country where {} was formed",
}
"""Descriptions of a subject's country, by words of the edit's template."""
QUESTIONS = {"capital": "The capital of {} is", "language": "The official language of {} is"}


class Chain(NamedTuple):
    """A question whose answer changes because of an edit."""

    case: Case
    """The edit."""
    question: str
    """The question, in two steps."""
    answer: str
    """The answer with the edit."""
    before: str
    """The answer before."""


def find_chains(everything: Sequence[Case], cases: Sequence[Case], number: int) -> list[Chain]:
    """Return questions whose answer changes because of the edits of some cases.

    Args:
        everything: Cases that state capitals and languages.
        cases: Their edits are followed up.
        number: Questions of a kind, at most.
    """
    known: dict[str, dict[str, str]] = {"capital": {}, "language": {}}
    for case in everything:
        for kind, mark in (("capital", "capital"), ("language", "official language")):
            if mark in template(case):
                known[kind].setdefault(case.subject, case.true)
    chains = []
    for kind, facts in known.items():
        changed = []
        for case in cases:
            country = next((text for mark, text in PLACES.items() if mark in template(case)), None)
            new, old = facts.get(case.new), facts.get(case.true)
            if country and new and old and new != old:
                changed.append(Chain(case, QUESTIONS[kind].format(country.format(case.subject)), new, old))
        chains += changed[:number]
    return chains


def score_chains(bench: EditBench, fitted: Fitted, chains: Sequence[Chain]) -> dict[str, Any]:
    """Return the per cent of questions on which the new answer is likelier than the old, and is generated."""
    if not chains:
        return {"n": 0, "likelier": None, "generated": None}
    rows = [
        prompt_of(bench.prompter, chain.case, chain.question, target)
        for chain in chains
        for target in (chain.answer, chain.before)
    ]
    total = bench.nll(fitted, rows).total.reshape(-1, 2)
    texts = bench.texts(fitted, rows[::2])
    generated = [matches(text, chain.answer)[1] for text, chain in zip(texts, chains, strict=True)]
    likelier = 100 * float(np.mean(total[:, 0] < total[:, 1]))
    return {"n": len(chains), "likelier": likelier, "generated": 100 * float(np.mean(generated))}
