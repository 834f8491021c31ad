"""Scores of answers: exact match and token F1 as SQuAD defines them (Rajpurkar et al., 2016; evaluate-v1.1.py)."""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import get_args

from diekae.data.prompt import Prompt
from diekae.model import DiekaeModel
from diekae.progress import Progress, silent
from diekae.run.answer import answer as answer_greedily
from diekae.run.score import Way, batches

MAX_TOKENS = 24
"""Longest generated answer."""
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalize(text: str) -> str:
    """Lower the case, remove punctuation, then articles, then surplus white space: SQuAD's order."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, references: Sequence[str]) -> float:
    """Return 1 if the normalised answer equals one of the normalised references, at least one, else 0."""
    return _best(lambda reference: float(normalize(answer) == normalize(reference)), references)


def f1(answer: str, references: Sequence[str]) -> float:
    """Return the harmonic mean of precision and recall of normalised words, the best over at least one reference."""
    return _best(lambda reference: _overlap(normalize(answer).split(), normalize(reference).split()), references)


def right(answer: str, references: Sequence[str]) -> float:
    """Return 1 if the normalised answer contains one of the normalised references as whole words, else 0."""
    words = f" {normalize(answer)} "
    normalized = [f" {normalize(reference)} " for reference in references]
    return _best(lambda reference: float(bool(reference.strip()) and reference in words), normalized)


def first_line(text: str) -> str:
    """Return the answer of a plain completion: everything before the first line break."""
    return text.strip().partition("\n")[0].strip()


def _best(score: Callable[[str], float], references: Sequence[str]) -> float:
    if isinstance(references, str) or not references:
        raise ValueError(f"references={references!r} must be a list of at least one text.")
    return max(map(score, references))


def _overlap(answer: list[str], reference: list[str]) -> float:
    common = sum((Counter(answer) & Counter(reference)).values())
    return 2 * common / (len(answer) + len(reference)) if common else 0.0


def score_answers(
    model: DiekaeModel,
    prompts: Sequence[Prompt],
    batch_size: int = 16,
    progress: Progress = silent,
    ways: Sequence[Way] = get_args(Way),
) -> dict[str, dict[str, float]]:
    """Answer greedily without K, with K in the prompt and with K injected; compare first lines with the targets.

    Returns:
        For each way the means of ``exact``, ``f1`` and ``right`` over the examples, from 0 to 1.

    Raises:
        ValueError: There is no prompt.
    """
    tokenizer = model.need_prompter().tokenizer
    scores: dict[str, dict[str, float]] = {}
    for way in ways:
        values: list[tuple[float, float, float]] = []
        for rows, done in batches(prompts, batch_size):
            batch = [prompts[row] for row in rows]
            for prompt, text in zip(batch, answer_greedily(model, batch, way, MAX_TOKENS), strict=True):
                line = first_line(text)
                targets = [str(tokenizer.decode(list(prompt.target), skip_special_tokens=True)).strip()]
                values.append((exact_match(line, targets), f1(line, targets), right(line, targets)))
            progress(f"answers of {way}", done, len(prompts))
        means = [sum(column) / len(values) for column in zip(*values, strict=True)]
        scores[way] = dict(zip(("exact", "f1", "right"), means, strict=True))
    return scores
