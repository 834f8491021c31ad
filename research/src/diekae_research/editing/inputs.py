"""Inputs that a gate is measured on: some ask for an edit, others for none."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

from diekae.data.prompt import Prompt, Prompter
from diekae_research.data.case import Case
from diekae_research.editing.phrasings import Phrasings, misspelt, shortened
from diekae_research.editing.scores import prompt_of


class Inputs(NamedTuple):
    """Inputs of one kind."""

    prompts: list[Prompt]
    """The inputs."""
    meant: list[str | None]
    """The statement of the edit that each input asks for; None if it asks for none."""


def make_inputs(
    prompter: Prompter, cases: Sequence[Case], phrasings: Phrasings, unrelated: Sequence[Prompt], seed: int
) -> dict[str, Inputs]:
    """Return inputs by kind.

    Args:
        prompter: Lays prompts out.
        cases: Cases with paraphrases and neighbours, whose edits are asked for.
        phrasings: Phrasings of other cases.
        unrelated: Unrelated texts.
        seed: Decides letters and relations.
    """
    draw = random.Random(seed)
    texts: dict[str, list[tuple[Case, str | None, bool]]] = {
        name: [] for name in ("prompt", "paraphrase", "misspelt", "shortened", "other relation", "neighbour")
    }
    for case in cases:
        paraphrase = case.paraphrases[0]
        short = shortened(case.subject, draw)
        texts["prompt"].append((case, case.prompt, True))
        texts["paraphrase"].append((case, paraphrase, True))
        texts["misspelt"].append((case, paraphrase.replace(case.subject, misspelt(case.subject, draw)), True))
        texts["shortened"].append((case, short and paraphrase.replace(case.subject, short), True))
        texts["other relation"].append((case, phrasings.elsewhere(case, draw), False))
        texts["neighbour"] += [(case, near, False) for near in case.neighbours[:2]]
    inputs = {}
    for name, rows in texts.items():
        present = [(case, text, meant) for case, text, meant in rows if text]
        prompts = [prompt_of(prompter, case, text, case.new) for case, text, _ in present]
        inputs[name] = Inputs(prompts, [case.edit.statement if meant else None for case, _, meant in present])
    return {**inputs, "unrelated text": Inputs(list(unrelated), [None] * len(unrelated))}


def shared_subjects(cases: Sequence[Case], number: int) -> list[Case]:
    """Return at most ``number`` cases of subjects with several facts, one case for each fact."""
    facts: dict[str, dict[tuple[str, str], Case]] = {}
    for case in cases:
        facts.setdefault(case.subject, {})[case.edit.fact] = case
    return [case for of_subject in facts.values() if len(of_subject) > 1 for case in of_subject.values()][:number]
