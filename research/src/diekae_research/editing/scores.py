"""Success of edits over whole targets, as Meng et al. (2022, section 3.3) define it, and of generated texts.

ES and PS: the share of edited prompts and of their paraphrases on which the whole new object is likelier than the whole
true one. NS: the share of neighbours on which the true object is likelier. Shares are averaged over a case's prompts
and then over cases. S is their harmonic mean. The authors' code divides each log-likelihood by the object's tokens:
these are the figures "by length".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from diekae.data.example import Example
from diekae.data.prompt import Prompt, Prompter
from diekae.evaluation.answers import normalize
from diekae_research.data.case import Case
from diekae_research.evaluation.intervals import Columns, Interval, bootstrap, harmonic
from diekae_research.evaluation.scoring import Numbers, count_tokens

KINDS = ("es", "ps", "ns")
ANSWER = 12
"""Tokens within which an answer must end."""
_STOP = re.compile(r"[\n.,;:!?(<\"]")


def prompt_of(prompter: Prompter, case: Case, text: str, target: str) -> Prompt:
    """Lay out a prompt of a case; the new fact is its knowledge, for methods that read it."""
    return prompter.prompt(Example((case.edit.statement,), text, target), case.format)


def prompts_of(cases: Sequence[Case], neighbours: int | None = None) -> list[tuple[int, str, str]]:
    """Return case, kind and text of every scored prompt, with at most ``neighbours`` neighbours a case."""
    prompts: list[tuple[int, str, str]] = []
    for place, case in enumerate(cases):
        kinds = zip(KINDS, ((case.prompt,), case.paraphrases, case.neighbours[:neighbours]), strict=True)
        prompts += [(place, kind, text) for kind, texts in kinds for text in texts]
    return prompts


def successes(
    prompter: Prompter,
    score: Callable[[Sequence[Prompt]], Numbers],
    cases: Sequence[Case],
    neighbours: int | None = None,
) -> dict[str, list[float]]:
    """Return each case's share of successes by kind, and whether it has prompts of the kind; see :func:`tally`.

    Args:
        prompter: Lays prompts out.
        score: Returns the NLL of each prompt's target under one method.
        cases: The cases that are scored.
        neighbours: Neighbourhood prompts of a case, at most.
    """
    prompts = prompts_of(cases, neighbours)
    rows = []
    for place, _, text in prompts:
        case = cases[place]
        rows += [prompt_of(prompter, case, text, target) for target in (case.new, case.true)]
    return tally(prompts, score(rows).reshape(-1, 2), count_tokens(rows).reshape(-1, 2), len(cases))


def tally(prompts: Sequence[tuple[int, str, str]], total: Any, tokens: Any, cases: int) -> dict[str, list[float]]:
    """Average successes over each case's prompts of a kind.

    Args:
        prompts: Case, kind and text of each prompt.
        total: NLL of the new and the true object, [prompts, 2].
        tokens: Their tokens, [prompts, 2].
        cases: Number of cases.

    Returns:
        ``es``, ``ps``, ``ns``, the same with ``_by_length``, and ``n_es`` …: 1 where a case has such prompts, else 0.
    """
    columns: dict[str, list[float]] = {}
    for kind in KINDS:
        rows = [row for row, prompt in enumerate(prompts) if prompt[1] == kind]
        places = [prompts[row][0] for row in rows]
        count = np.bincount(places, minlength=cases) if rows else np.zeros(cases)
        for suffix, losses in (("", total), ("_by_length", total / tokens)):
            new, true = losses[rows, 0], losses[rows, 1]
            right = (new > true) if kind == "ns" else (new < true)
            sums = np.bincount(places, right.astype(float), cases) if rows else np.zeros(cases)
            columns[kind + suffix] = (sums / np.maximum(count, 1)).tolist()
        columns[f"n_{kind}"] = (count > 0).astype(float).tolist()
    return columns


def answer(text: str) -> str:
    """Return the answer of a continuation: all before the first line break or punctuation mark."""
    return _STOP.split(text.strip(), maxsplit=1)[0].strip()


def matches(text: str, target: str) -> tuple[float, float]:
    """Return whether a continuation's answer is the target, and whether it begins with it, up to case and articles."""
    expected = normalize(target)
    return float(normalize(answer(text)) == expected), float(f"{normalize(text)} ".startswith(f"{expected} "))


def success(columns: Columns, counts: Mapping[str, str], seed: int = 0) -> Interval | None:
    """Return the mean of a column over the cases that count; of several columns, the harmonic mean of their means.

    Args:
        columns: Numbers of each case, 0 where a case does not count.
        counts: For each column, the one that says which cases count.
        seed: Seed of the resamples.
    """
    if not all(sum(columns[count]) for count in counts.values()):
        return None
    used = {name: columns[name] for name in (*counts, *counts.values())}

    def figure(sums: Mapping[str, Any]) -> Any:
        shares = [sums[name] / np.maximum(sums[count], 1) for name, count in counts.items()]
        return shares[0] if len(shares) == 1 else harmonic(shares)

    return bootstrap([used], figure, seed)


def share(columns: Columns, name: str, count: str) -> dict[str, float] | None:
    """Return :func:`success` of one column in per cent, with its interval."""
    figure = success(columns, {name: count})
    return None if figure is None else {key: 100 * value for key, value in figure._asdict().items()}


def summary(columns: Columns) -> dict[str, Any]:
    """Return ES, PS, NS and S in per cent, plain and by length; None where there are no such prompts."""
    figures: dict[str, Any] = {}
    for suffix in ("", "_by_length"):
        parts = [share(columns, kind + suffix, f"n_{kind}") for kind in KINDS]
        figures |= {kind + suffix: part for kind, part in zip(KINDS, parts, strict=True)}
        values = [part["value"] for part in parts if part is not None]
        figures["s" + suffix] = float(harmonic(values)) if len(values) == len(KINDS) else None
    return figures
