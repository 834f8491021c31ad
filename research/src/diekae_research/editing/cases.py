"""Cases that editing is measured on: an edit, its paraphrases, and neighbours that must not change.

CounterFact (Meng et al., 2022) in both layouts of :mod:`diekae_research.sources.counterfact`, and zsRE as Mitchell et
al. (2022) turned it into edits. In the reduced layout of CounterFact a case has one neighbourhood prompt. More are
taken from cases with the same template and true object, as in the original.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from diekae.data.example import DataError
from diekae.data.splits import split_of
from diekae_research.data.case import NEIGHBOURS, Case
from diekae_research.data.request import Request
from diekae_research.sources import source_card
from diekae_research.sources.counterfact import ORIGINAL, REDUCED, divide_cases, iterate_cases
from diekae_research.sources.zsre import PATTERN


class CaseParts(NamedTuple):
    """The parts of a set of cases."""

    train: list[Case]
    """For training."""
    validation: list[Case]
    """For choices."""
    test: list[Case]
    """Reported."""


def load_cases(folder: Path, number: int, seed: int) -> list[Case]:
    """Read CounterFact and choose cases at random; see :func:`read_counterfact` and :func:`choose`."""
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
    cases = sorted(iterate_cases(request, name), key=lambda case: case.case)
    if not cases:
        raise DataError(f"{folder}: no case; expected {name}, or {', '.join(REDUCED)}")
    return cases if request.there(name) else _pooled(cases)


def divide(cases: Sequence[Case]) -> CaseParts:
    """Divide CounterFact as its source does."""
    return CaseParts(*divide_cases(cases))


def read_zsre(folder: Path) -> CaseParts:
    """Read all edits of zsRE, divided as its source does.

    Raises:
        DataError: There is no file of it.
    """
    request = Request("zsre", source_card("zsre"), folder, "train", None, 0)
    names = sorted(path.name for path in request.path("").glob(PATTERN))
    cases = [case for name in names for case in request.convert(request.entries(name), _zsre)]
    if not cases:
        raise DataError(f"{folder}: no case; expected {PATTERN}")
    parts = CaseParts([], [], [])
    for number, case in enumerate(cases):
        getattr(parts, split_of(case.subject.lower())).append(replace(case, case=number))
    return parts


def _zsre(record: Mapping[str, Any]) -> Iterator[Case]:
    prompt, subject = record["src"].strip(), record["subject"].strip()
    if subject not in prompt:
        raise ValueError(f"the question {prompt!r} does not name {subject!r}")
    new, true = record["alt"].strip(), record["answers"][0].strip()
    yield Case(0, prompt, subject, new, true, (record["rephrase"].strip(),), (), "qa")


def _pooled(ordered: Sequence[Case]) -> list[Case]:
    """Give every case the neighbours of its neighbourhood: its own first, and none about its own subject."""
    pools: dict[tuple[str, str], list[str]] = {}
    for case in ordered:
        pools.setdefault((case.template, case.true), []).extend(case.neighbours)
    pooled = []
    for case in ordered:
        prompts = dict.fromkeys((*case.neighbours, *pools[case.template, case.true]))
        neighbours = [prompt for prompt in prompts if case.subject not in prompt]
        pooled.append(replace(case, neighbours=tuple(neighbours[:NEIGHBOURS])))
    return pooled
