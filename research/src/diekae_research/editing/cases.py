"""Cases that editing is measured on: what is to be changed, how it is paraphrased, and what must stay.

CounterFact (Meng et al., 2022) in both layouts, and zsRE as Mitchell et al. (2022) turned it into edits.

Both layouts of :mod:`diekae_research.sources.counterfact` are read. The reduced one needs care:

- its ``rephrase_prompt`` is often one of CounterFact's *generation* prompts, which are no paraphrases; those that a
  file ``generation_prompts.txt`` lists, a line each, are left out, and without that file all are;
- it has one neighbourhood prompt a case; more are taken from cases that share relation (the prompt without its subject)
  and true object, as they do in the original.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from diekae.data.example import DataError
from diekae.data.splits import split_of
from diekae.edit.edit import Edit
from diekae_research.data.request import Request
from diekae_research.sources import source_card
from diekae_research.sources.counterfact import TRAIN_PERCENT

ORIGINAL = "counterfact.json"
REDUCED = ("counterfact-train.json", "counterfact-edit.json", "counterfact-val.json")
GENERATION = "generation_prompts.txt"
NEIGHBOURS = 10
"""Neighbourhood prompts of a case at most, as many as the original has."""


@dataclass(frozen=True)
class Case:
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

    format: str = "plain"
    """How prompts are wrapped: beginnings of sentences ``plain``, questions ``qa``."""
    neighbour_true: str | None = None
    """The neighbours' answer, where it is another than the true one."""

    @property
    def edit(self) -> Edit:
        """Return what is asked for."""
        return Edit(self.prompt, self.subject, self.new, target_true=self.true)

    @property
    def relation(self) -> tuple[str, str]:
        """Return what cases of one neighbourhood share: the prompt without its subject, and the true object."""
        return self.prompt.replace(self.subject, "{}"), self.true

    @property
    def fact(self) -> str:
        """Return the new fact as a text."""
        return f"{self.prompt} {self.new}."


def load_cases(folder: Path, number: int, seed: int) -> list[Case]:
    """Choose cases of CounterFact at random, among those that have a paraphrase and neighbours if there are such.

    Args:
        folder: With ``counterfact.json``, or with the three reduced files.
        number: At most this many.
        seed: Decides which.

    Raises:
        DataError: The files are missing, or hold no case.
    """
    return choose(read_counterfact(folder), number, seed)


def choose(cases: Sequence[Case], number: int, seed: int) -> list[Case]:
    """Choose cases at random, among those that have a paraphrase and neighbours if there are such."""
    complete = [case for case in cases if case.paraphrases and case.neighbours]
    chosen = sorted(complete or cases, key=lambda case: case.case)
    return random.Random(seed).sample(chosen, min(number, len(chosen)))


def read_counterfact(folder: Path, name: str = ORIGINAL) -> list[Case]:
    """Read all cases of CounterFact, in the order of their numbers.

    Args:
        folder: With the file, or with the three reduced files.
        name: The file in the original layout.

    Raises:
        DataError: The files are missing, or hold no case.
    """
    request = Request("counterfact", source_card("counterfact"), folder, "train", None, 0)
    if request.there(name):
        cases = list(request.convert(request.entries(name), _original))
    else:
        listed = request.path(GENERATION)
        generation = set(listed.read_text().splitlines()) if listed.is_file() else None
        entries = [entry for part in REDUCED for entry in request.entries(part)]
        cases = _pooled(request.convert(entries, lambda record: _reduced(record, generation)))
    if not cases:
        raise DataError(f"{folder}: no case; expected {name}, or {', '.join(REDUCED)}")
    return sorted(cases, key=lambda case: case.case)


def read_zsre(folder: Path) -> list[Case]:
    """Read all edits of zsRE; the neighbour of a case is a question of Natural Questions.

    Raises:
        DataError: There is no file of it.
    """
    request = Request("zsre", source_card("zsre"), folder, "train", None, 0)
    names = sorted(path.name for path in request.path("").glob("zsre_mend_*.json"))
    cases = [case for name in names for case in request.convert(request.entries(name), _zsre)]
    if not cases:
        raise DataError(f"{folder}: no case; expected zsre_mend_*.json")
    return [replace(case, case=number) for number, case in enumerate(cases)]


class Parts(NamedTuple):
    """What is learned from, what chooses, and what is reported."""

    train: list[Case]
    """Of CounterFact the first 85 % by number, as the paper's."""
    validation: list[Case]
    """Chooses; every second of the rest."""
    test: list[Case]
    """Reported; the others of the rest."""


def divide(cases: Sequence[Case]) -> Parts:
    """Divide CounterFact as :func:`diekae_research.sources.counterfact.load_counterfact` does."""
    cut = len(cases) * TRAIN_PERCENT // 100
    return Parts(list(cases[:cut]), list(cases[cut::2]), list(cases[cut + 1 :: 2]))


def divide_by_subject(cases: Sequence[Case]) -> Parts:
    """Divide zsRE as :func:`diekae_research.sources.zsre.load_zsre` does."""
    parts = Parts([], [], [])
    for case in cases:
        getattr(parts, split_of(case.subject.lower())).append(case)
    return parts


def _zsre(record: Mapping[str, Any]) -> Iterator[Case]:
    prompt, subject = record["src"].strip(), record["subject"].strip()
    if subject not in prompt:
        raise ValueError(f"the question {prompt!r} does not name {subject!r}")
    near = record["loc"].removeprefix("nq question: ")
    yield Case(
        0,
        prompt,
        subject,
        record["alt"].strip(),
        record["answers"][0].strip(),
        (record["rephrase"].strip(),),
        (f"{near[:1].upper()}{near[1:]}?",),
        "qa",
        record["loc_ans"].strip(),
    )


def _original(record: Mapping[str, Any]) -> Iterator[Case]:
    rewrite = record["requested_rewrite"]
    yield Case(
        int(record["case_id"]),
        rewrite["prompt"].replace("{}", rewrite["subject"]),
        rewrite["subject"],
        rewrite["target_new"]["str"],
        rewrite["target_true"]["str"],
        tuple(record["paraphrase_prompts"]),
        tuple(record["neighborhood_prompts"][:NEIGHBOURS]),
    )


def _reduced(record: Mapping[str, Any], generation: set[str] | None) -> Iterator[Case]:
    asked = record["rephrase_prompt"]
    stays = record["locality_ground_truth"] == record["ground_truth"]
    yield Case(
        int(record["case_id"]),
        record["prompt"],
        record["subject"],
        record["target_new"],
        record["ground_truth"],
        (asked,) if generation is not None and asked not in generation else (),
        (record["locality_prompt"],) if stays else (),
    )


def _pooled(cases: Iterable[Case]) -> list[Case]:
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
