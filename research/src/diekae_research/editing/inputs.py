"""Inputs that a gate is measured on: those that ask for an edit in some way, and those that ask for none."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

from diekae.data.prompt import Prompt, Prompter
from diekae_research.editing.cases import Case
from diekae_research.editing.phrasings import Phrasings, misspelt, shortened
from diekae_research.editing.scores import prompt_of


class Inputs(NamedTuple):
    """Inputs of one kind."""

    prompts: list[Prompt]
    """What is asked."""
    meant: list[str | None]
    """The statement of the edit that each asks for, None for those that ask for none."""


def make_inputs(
    prompter: Prompter, cases: Sequence[Case], phrasings: Phrasings, unrelated: Sequence[Prompt], seed: int
) -> dict[str, Inputs]:
    """Return inputs by kind; the same seed makes the same.

    Args:
        prompter: Lays prompts out.
        cases: Whose edits are asked for, with paraphrases and neighbours.
        phrasings: Of cases that are none of these.
        unrelated: Texts of another kind.
        seed: Decides letters and relations.
    """
    draw = random.Random(seed)
    texts: dict[str, list[tuple[Case, str | None, bool]]] = {
        name: [] for name in ("prompt", "paraphrase", "misspelt", "shortened", "other relation", "neighbour")
    }
    for case in cases:
        told = case.paraphrases[0]
        short = shortened(case.subject, draw)
        texts["prompt"].append((case, case.prompt, True))
        texts["paraphrase"].append((case, told, True))
        texts["misspelt"].append((case, told.replace(case.subject, misspelt(case.subject, draw)), True))
        texts["shortened"].append((case, short and told.replace(case.subject, short), True))
        texts["other relation"].append((case, phrasings.elsewhere(case, draw), False))
        texts["neighbour"] += [(case, near, False) for near in case.neighbours[:2]]
    found = {}
    for name, rows in texts.items():
        kept = [(case, text, meant) for case, text, meant in rows if text]
        prompts = [prompt_of(prompter, case, text, case.new) for case, text, _ in kept]
        found[name] = Inputs(prompts, [case.edit.statement if meant else None for case, _, meant in kept])
    return {**found, "unrelated text": Inputs(list(unrelated), [None] * len(unrelated))}


def shared_subjects(cases: Sequence[Case], number: int) -> list[Case]:
    """Return cases whose subject has several facts, of which each has its own prompt, at most so many."""
    facts: dict[str, dict[tuple[str, str], Case]] = {}
    for case in cases:
        facts.setdefault(case.subject, {})[case.edit.fact] = case
    return [case for known in facts.values() if len(known) > 1 for case in known.values()][:number]
