"""Exact match and token F1 of answers, by SQuAD's definition (Rajpurkar et al., 2016; evaluate-v1.1.py)."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalize(text: str) -> str:
    """Lower the case, drop punctuation, then articles, then surplus white space: SQuAD's order."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, references: Sequence[str]) -> float:
    """Return 1 if the answer is one of the references after normalisation, else 0.

    Raises:
        ValueError: There is no reference.
    """
    return _best(lambda reference: float(normalize(answer) == normalize(reference)), references)


def f1(answer: str, references: Sequence[str]) -> float:
    """Return the harmonic mean of precision and recall of normalised words, the best over the references.

    Raises:
        ValueError: There is no reference.
    """
    return _best(lambda reference: _overlap(normalize(answer).split(), normalize(reference).split()), references)


def right(answer: str, references: Sequence[str]) -> float:
    """Return 1 if one of the references stands in the answer after normalisation, as whole words, else 0.

    Raises:
        ValueError: There is no reference.
    """
    said = f" {normalize(answer)} "
    wanted = [f" {normalize(reference)} " for reference in references]
    return _best(lambda reference: float(bool(reference.strip()) and reference in said), wanted)


def first_line(text: str) -> str:
    """Return what a plain completion means as its answer: everything up to the first line break."""
    return text.strip().partition("\n")[0].strip()


def _best(score: Callable[[str], float], references: Sequence[str]) -> float:
    if isinstance(references, str) or not references:
        raise ValueError(f"references={references!r} must be a list of at least one text.")
    return max(map(score, references))


def _overlap(answer: list[str], reference: list[str]) -> float:
    common = sum((Counter(answer) & Counter(reference)).values())
    return 2 * common / (len(answer) + len(reference)) if common else 0.0
