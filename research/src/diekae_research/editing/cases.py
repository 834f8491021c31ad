"""Cases that editing is measured on: an edit, its paraphrases, and neighbours that must not change.

CounterFact (Meng et al., 2022) in both layouts of :mod:`diekae_research.sources.counterfact`, and zsRE as Mitchell et
al. (2022) turned it into edits. In the reduced layout of CounterFact:

- ``rephrase_prompt`` is often one of CounterFact's *generation* prompts, which are no paraphrases. Those that a file
  ``generation_prompts.txt`` lists, a line each, are left out; without that file all are.
- A case has one neighbourhood prompt. More are taken from cases with the same relation (the prompt without its subject)
  and true object, as in the original.
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
from diekae_research.sources.counterfact import ORIGINAL, REDUCED, TRAIN_PERCENT

GENERATION = "generation_prompts.txt"
NEIGHBOURS = 10
"""Neighbourhood prompts of a case, at most; as many as the original has."""


@dataclass(frozen=True)
class Case:
    """One case."""

    case: int
    """``case_id``."""
    prompt: str
    """The edited prompt; it contains the subject."""
    subject: str
    """Who or what the fact is about."""
    new: str
    """The new object."""
    true: str
    """The true object."""
    paraphrases: tuple[str, ...]
    """The prompt in other words; only true paraphrases."""
    neighbours: tuple[str, ...]
    """Prompts about other subjects, whose answer remains the true object."""

    format: str = "plain"
    """Text around prompts: ``plain`` for beginnings of sentences, ``qa`` for questions."""
    neighbour_true: str | None = None
    """The neighbours' answer, if it is not the true object."""

    @property
    def edit(self) -> Edit:
        """Return the edit."""
        return Edit(self.prompt, self.subject, self.new, target_true=self.true)

    @property
    def relation(self) -> tuple[str, str]:
        """Return what cases of a neighbourhood share: the prompt without its subject, and the true object."""
        return self.prompt.replace(self.subject, "{}"), self.true

    @property
    def fact(self) -> str:
        """Return the new fact as a text."""
        return f"{self.prompt} {self.new}."


def load_cases(folder: Path, number: int, seed: int) -> list[Case]:
    """Read CounterFact and choose cases at random; see :func:`choose`.

    Args:
        folder: Folder of ``counterfact.json``, or of the three reduced files.
        number: At most this many.
        seed: Decides which.

    Raises:
        DataError: The files are missing, or hold no case.
    """
    return choose(read_counterfact(folder), number, seed)


def choose(cases: Sequence[Case], number: int, seed: int) -> list[Case]:
    """Choose cases at random: those with a paraphrase and neighbours, or any case if there are none."""
    complete = [case for case in cases if case.paraphrases and case.neighbours]
    ordered = sorted(complete or cases, key=lambda case: case.case)
    return random.Random(seed).sample(ordered, min(number, len(ordered)))


def read_counterfact(folder: Path, name: str = ORIGINAL) -> list[Case]:
    """Read all cases of CounterFact, ordered by number.

    Args:
        folder: Folder of the file, or of the three reduced files.
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
    """Read all edits of zsRE; a case's neighbour is a question of Natural Questions.

    Raises:
        DataError: There is no file of it.
    """
    request = Request("zsre", source_card("zsre"), folder, "train", None, 0)
    names = sorted(path.name for path in request.path("").glob("zsre_mend_*.json"))
    cases = [case for name in names for case in request.convert(request.entries(name), _zsre)]
    if not cases:
        raise DataError(f"{folder}: no case; expected zsre_mend_*.json")
    return [replace(case, case=number) for number, case in enumerate(cases)]


class CaseParts(NamedTuple):
    """The parts of a set of cases."""

    train: list[Case]
    """For training. Of CounterFact the first 85 % by number, as in the paper."""
    validation: list[Case]
    """For choices. Of CounterFact every second of the others."""
    test: list[Case]
    """Reported."""


def divide(cases: Sequence[Case]) -> CaseParts:
    """Divide CounterFact as :func:`diekae_research.sources.counterfact.load_counterfact` does."""
    cut = len(cases) * TRAIN_PERCENT // 100
    return CaseParts(list(cases[:cut]), list(cases[cut::2]), list(cases[cut + 1 :: 2]))


def divide_by_subject(cases: Sequence[Case]) -> CaseParts:
    """Divide zsRE as :func:`diekae_research.sources.zsre.load_zsre` does."""
    parts = CaseParts([], [], [])
    for case in cases:
        getattr(parts, split_of(case.subject.lower())).append(case)
    return parts


def _zsre(record: Mapping[str, Any]) -> Iterator[Case]:
    prompt, subject = record["src"].strip(), record["subject"].strip()
    if subject not in prompt:
        raise ValueError(f"the question {prompt!r} does not name {subject!r}")
    neighbour = record["loc"].removeprefix("nq question: ")
    yield Case(
        0,
        prompt,
        subject,
        record["alt"].strip(),
        record["answers"][0].strip(),
        (record["rephrase"].strip(),),
        (f"{neighbour[:1].upper()}{neighbour[1:]}?",),
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
    paraphrase = record["rephrase_prompt"]
    stays = record["locality_ground_truth"] == record["ground_truth"]
    yield Case(
        int(record["case_id"]),
        record["prompt"],
        record["subject"],
        record["target_new"],
        record["ground_truth"],
        (paraphrase,) if generation is not None and paraphrase not in generation else (),
        (record["locality_prompt"],) if stays else (),
    )


def _pooled(cases: Iterable[Case]) -> list[Case]:
    """Give every case the neighbours of its neighbourhood: its own first, and none about its own subject."""
    ordered = sorted(cases, key=lambda case: case.case)
    pools: dict[tuple[str, str], list[str]] = {}
    for case in ordered:
        pools.setdefault(case.relation, []).extend(case.neighbours)
    pooled = []
    for case in ordered:
        prompts = dict.fromkeys((*case.neighbours, *pools[case.relation]))
        neighbours = [prompt for prompt in prompts if case.subject not in prompt]
        pooled.append(replace(case, neighbours=tuple(neighbours[:NEIGHBOURS])))
    return pooled
