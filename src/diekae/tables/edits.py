"""CounterFact as edits: what is to be changed, how it is paraphrased, and what must stay (Meng et al., 2022).

Both layouts of :mod:`diekae.data.sources.counterfact` are read. The reduced one needs care:

- its ``rephrase_prompt`` is often one of CounterFact's *generation* prompts, which are no paraphrases; those that a
  file ``generation_prompts.txt`` lists, a line each, are left out, and without that file all are;
- it has one neighbourhood prompt a case; more are taken from cases that share relation (the prompt without its subject)
  and true object, as they do in the original.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diekae.data.example import DataError
from diekae.data.request import Request
from diekae.data.sources import source_card

ORIGINAL = "counterfact.json"
REDUCED = ("counterfact-train.json", "counterfact-edit.json", "counterfact-val.json")
GENERATION = "generation_prompts.txt"
NEIGHBOURS = 10
"""Neighbourhood prompts of a case at most, as many as the original has."""


@dataclass(frozen=True)
class Edit:
    """One case."""

    case: int
    """``case_id``."""
    prompt: str
    """What is asked, the subject in it."""
    subject: str
    """Who or what it is asked of."""
    new: str
    """What is to be answered."""
    true: str
    """What was answered, rightly."""
    paraphrases: tuple[str, ...]
    """The same asked in other words; only true paraphrases."""
    neighbours: tuple[str, ...]
    """Asked of other subjects, whose answer is and remains the true one."""

    @property
    def relation(self) -> tuple[str, str]:
        """Return what cases of one neighbourhood share: the prompt without its subject, and the true object."""
        return self.prompt.replace(self.subject, "{}"), self.true

    @property
    def fact(self) -> str:
        """Return the new fact as a text."""
        return f"{self.prompt} {self.new}."


def load_edits(folder: Path, number: int, seed: int) -> list[Edit]:
    """Choose edits at random, among the cases that have a paraphrase and neighbours if there are such.

    Args:
        folder: With ``counterfact.json``, or with the three reduced files.
        number: At most this many.
        seed: Decides which.

    Raises:
        DataError: The files are missing, or hold no case.
    """
    request = Request("counterfact", source_card("counterfact"), folder, "train", None, seed)
    if request.there(ORIGINAL):
        cases = list(request.convert(request.entries(ORIGINAL), _original))
    else:
        listed = request.path(GENERATION)
        generation = set(listed.read_text().splitlines()) if listed.is_file() else None
        entries = [entry for name in REDUCED for entry in request.entries(name)]
        cases = _pooled(request.convert(entries, lambda record: _reduced(record, generation)))
    complete = [case for case in cases if case.paraphrases and case.neighbours]
    chosen = sorted(complete or cases, key=lambda case: case.case)
    if not chosen:
        raise DataError(f"{folder}: no case; expected {ORIGINAL}, or {', '.join(REDUCED)}")
    return random.Random(seed).sample(chosen, min(number, len(chosen)))


def _original(record: Mapping[str, Any]) -> Iterator[Edit]:
    rewrite = record["requested_rewrite"]
    yield Edit(
        int(record["case_id"]),
        rewrite["prompt"].replace("{}", rewrite["subject"]),
        rewrite["subject"],
        rewrite["target_new"]["str"],
        rewrite["target_true"]["str"],
        tuple(record["paraphrase_prompts"]),
        tuple(record["neighborhood_prompts"][:NEIGHBOURS]),
    )


def _reduced(record: Mapping[str, Any], generation: set[str] | None) -> Iterator[Edit]:
    asked = record["rephrase_prompt"]
    stays = record["locality_ground_truth"] == record["ground_truth"]
    yield Edit(
        int(record["case_id"]),
        record["prompt"],
        record["subject"],
        record["target_new"],
        record["ground_truth"],
        (asked,) if generation is not None and asked not in generation else (),
        (record["locality_prompt"],) if stays else (),
    )


def _pooled(cases: Iterable[Edit]) -> list[Edit]:
    """Give every case the neighbours of its neighbourhood, its own first, none about its own subject."""
    ordered = sorted(cases, key=lambda case: case.case)
    pools: dict[tuple[str, str], list[str]] = {}
    for case in ordered:
        pools.setdefault(case.relation, []).extend(case.neighbours)
    found = []
    for case in ordered:
        near = dict.fromkeys((*case.neighbours, *pools[case.relation]))
        kept = [prompt for prompt in near if case.subject not in prompt]
        found.append(replace(case, neighbours=tuple(kept[:NEIGHBOURS])))
    return found
