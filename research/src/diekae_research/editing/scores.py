"""Success of edits, as Meng et al. (2022, section 3.3) define it, over whole targets; and what is really generated.

ES, PS and NS: the share of prompts on which the whole new object is likelier than the whole true one (edited prompt,
its paraphrases), or the true one likelier than the new (neighbours), averaged first over a case's prompts and then over
cases. S is their harmonic mean. Their code divides each log-likelihood by the object's tokens: figures "by length".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from diekae.data.example import Example
from diekae.data.prompt import Prompt, Prompter
from diekae.evaluation.answers import normalize
from diekae_research.editing.cases import Case
from diekae_research.evaluation.bootstrap import bootstrap
from diekae_research.evaluation.scoring import Sums

KINDS = ("es", "ps", "ns")
ANSWER = 12
"""Tokens in which an answer must have come to its end."""
_STOP = re.compile(r"[\n.,;:!?(<\"]")


def prompt_of(prompter: Prompter, case: Case, text: str, target: str) -> Prompt:
    """Lay one prompt of a case out; the new fact is its knowledge, for methods that look at it."""
    return prompter.prompt(Example((case.edit.statement,), text, target), case.format)


def asked_of(cases: Sequence[Case], neighbours: int | None = None) -> list[tuple[int, str, str]]:
    """Return case, kind and text of every prompt that is scored, with at most so many neighbours a case."""
    found: list[tuple[int, str, str]] = []
    for place, case in enumerate(cases):
        kinds = zip(KINDS, ((case.prompt,), case.paraphrases, case.neighbours[:neighbours]), strict=True)
        found += [(place, kind, text) for kind, texts in kinds for text in texts]
    return found


def successes(
    prompter: Prompter,
    score: Callable[[Sequence[Prompt]], Sums],
    cases: Sequence[Case],
    neighbours: int | None = None,
) -> dict[str, list[float]]:
    """Return each case's share of successes by kind, plain and by length, and whether it has prompts of the kind.

    Args:
        prompter: Lays prompts out.
        score: Returns the NLL of each prompt's target, as :func:`diekae_research.evaluation.scoring.nll` does for one method.
        cases: What is scored.
        neighbours: Neighbourhood prompts of a case at most.
    """
    asked = asked_of(cases, neighbours)
    rows = []
    for place, kind, text in asked:
        case = cases[place]
        true = case.neighbour_true if kind == "ns" and case.neighbour_true else case.true
        rows += [prompt_of(prompter, case, text, target) for target in (case.new, true)]
    scored = score(rows)
    return tally(asked, scored.total.reshape(-1, 2), scored.tokens.reshape(-1, 2), len(cases))


def tally(asked: Sequence[tuple[int, str, str]], total: Any, tokens: Any, cases: int) -> dict[str, list[float]]:
    """Average successes over each case's prompts of a kind.

    Args:
        asked: Case, kind and text of each prompt.
        total: NLL of the new and the true object after it, [prompts, 2].
        tokens: Their tokens, [prompts, 2].
        cases: Number of cases.

    Returns:
        ``es``, ``ps``, ``ns``, the same with ``_by_length``, and ``n_es`` …: 1 where a case has such prompts, else 0.
    """
    found: dict[str, list[float]] = {}
    for kind in KINDS:
        rows = [row for row, (_, one, _) in enumerate(asked) if one == kind]
        places = [asked[row][0] for row in rows]
        count = np.bincount(places, minlength=cases) if rows else np.zeros(cases)
        for suffix, cost_of in (("", total), ("_by_length", total / tokens)):
            new, true = cost_of[rows, 0], cost_of[rows, 1]
            right = (new > true) if kind == "ns" else (new < true)
            sums = np.bincount(places, right.astype(float), cases) if rows else np.zeros(cases)
            found[kind + suffix] = (sums / np.maximum(count, 1)).tolist()
        found[f"n_{kind}"] = (count > 0).astype(float).tolist()
    return found


def answer(text: str) -> str:
    """Return what a continuation answers: all before the first line break or punctuation mark."""
    return _STOP.split(text.strip(), maxsplit=1)[0].strip()


def says(text: str, target: str) -> tuple[float, float]:
    """Tell whether a continuation's answer is the target, and whether it begins with it, up to case and articles."""
    wanted = normalize(target)
    return float(normalize(answer(text)) == wanted), float(f"{normalize(text)} ".startswith(f"{wanted} "))


def share(columns: Mapping[str, Sequence[float]], name: str, count: str, seed: int = 0) -> dict[str, float] | None:
    """Return the mean over the cases that count, in per cent, with its 95 % interval; None where none does."""
    if not sum(columns[count]):
        return None
    kept = {"hits": np.array(columns[name]) * np.array(columns[count]), "n": columns[count]}
    found = bootstrap(kept, lambda s: 100 * s["hits"] / np.maximum(s["n"], 1), seed=seed)
    return {"value": found.value, "low": found.low, "high": found.high}


def harmonic(shares: Sequence[float]) -> float:
    """Return the harmonic mean; 0 where one is 0."""
    return 0.0 if min(shares) <= 0 else len(shares) / sum(1 / one for one in shares)


def summary(columns: Mapping[str, Sequence[float]], seed: int = 0) -> dict[str, Any]:
    """Return ES, PS, NS, plain and by length, and S, in per cent; None where there are no such prompts."""
    found: dict[str, Any] = {}
    for suffix in ("", "_by_length"):
        parts = [share(columns, kind + suffix, f"n_{kind}", seed) for kind in KINDS]
        found |= {kind + suffix: part for kind, part in zip(KINDS, parts, strict=True)}
        values = [part["value"] for part in parts if part is not None]
        found["s" + suffix] = harmonic(values) if len(values) == len(KINDS) else None
    return found
