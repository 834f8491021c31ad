"""What a fitted method is scored with: sums for each example, so that every figure can be bootstrapped afterwards."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from diekae.data.example import Example
from diekae.data.prompt import Prompt, Prompter
from diekae.evaluation import answers
from diekae.progress import Progress, silent
from diekae.run.score import batches, by_example
from diekae_research.methods import Fitted

ANSWER_TOKENS = 24
"""Longest answer that is generated."""
Numbers = NDArray[np.float64]


class Sums(NamedTuple):
    """One number a token, summed over each example's target."""

    total: Numbers
    """Nats, [examples]."""
    tokens: Numbers
    """Target tokens, [examples]."""

    @property
    def mean(self) -> float:
        """Return nats per token, every token counting alike."""
        return float(self.total.sum() / self.tokens.sum())


class LabelScores(NamedTuple):
    """What a method thinks of each candidate."""

    total: Numbers
    """Log-likelihood of the whole candidate in nats, [examples, candidates]."""
    tokens: NDArray[np.int64]
    """Tokens of the candidates, [candidates]."""

    @property
    def choices(self) -> NDArray[np.int64]:
        """Return the likeliest candidate of each example."""
        chosen: NDArray[np.int64] = self.total.argmax(1)
        return chosen

    @property
    def choices_by_length(self) -> NDArray[np.int64]:
        """Return the candidate that is likeliest per token, which does not favour short ones."""
        chosen: NDArray[np.int64] = (self.total / self.tokens).argmax(1)
        return chosen


class AnswerScores(NamedTuple):
    """What greedy answers are worth, by SQuAD's definition."""

    exact: Numbers
    """1 where the answer is the target, else 0; [examples]."""
    f1: Numbers
    """Token F1, [examples]."""
    right: Numbers
    """1 where the target stands in the answer's first line, [examples]."""


def nll(
    fitted: Fitted,
    prompts: Sequence[Prompt],
    batch_size: int = 16,
    progress: Progress = silent,
) -> Sums:
    """Return the negative log-likelihood of each example's target; examples of like length run together.

    Raises:
        ValueError: There is no prompt.
    """

    def losses(batch: Sequence[Prompt]) -> Tensor:
        scored = fitted.target_logits(batch)
        return F.cross_entropy(scored.logits.float(), scored.labels, reduction="none")

    return _sum_by_example(losses, prompts, batch_size, lambda done, count: progress(fitted.name, done, count))


def harm(
    bare: Fitted,
    fitted: Fitted,
    prompts: Sequence[Prompt],
    batch_size: int = 16,
    progress: Progress = silent,
) -> Sums:
    """Return KL(D(x) ‖ method), in nats a target token: how far knowledge moves what it says nothing about.

    Args:
        bare: The method ``bare``.
        fitted: The method in question.
        prompts: Examples whose knowledge has nothing to do with them, as from
            :func:`diekae.evaluation.evaluate.swap_knowledge`.
        batch_size: Examples a pass.
        progress: Told how far it is.

    Raises:
        ValueError: There is no prompt.
    """

    def divergences(batch: Sequence[Prompt]) -> Tensor:
        base, moved = (method.target_logits(batch).logits.float().log_softmax(-1) for method in (bare, fitted))
        return F.kl_div(moved, base, log_target=True, reduction="none").sum(-1)

    return _sum_by_example(
        divergences, prompts, batch_size, lambda done, count: progress(f"harm of {fitted.name}", done, count)
    )


def label_targets(prompter: Prompter, labels: Sequence[str], format: str | None = None) -> list[tuple[int, ...]]:
    """Return the tokens of each label as a target.

    Raises:
        DataError: A label is blank.
    """
    return [prompter.prompt(Example((), "x", label), format).target for label in labels]


def score_labels(
    fitted: Fitted,
    prompts: Sequence[Prompt],
    candidates: Sequence[tuple[int, ...]],
    batch_size: int = 16,
    progress: Progress = silent,
) -> LabelScores:
    """Return how likely each candidate is as each example's target; the targets themselves are not looked at.

    Args:
        fitted: Any method.
        prompts: Examples to classify.
        candidates: Tokens of the labels, as from :func:`label_targets`.
        batch_size: Examples a pass, each with one candidate.
        progress: Told how far it is.

    Raises:
        ValueError: There are fewer than two candidates, one is empty, or there is no prompt.
    """
    if len(candidates) < 2 or not all(candidates):
        raise ValueError(f"candidates={list(candidates)} must be at least two labels of at least one token each.")
    rows = [dataclasses.replace(prompt, target=target) for prompt in prompts for target in candidates]
    found = nll(fitted, rows, batch_size, progress)
    return LabelScores(-found.total.reshape(-1, len(candidates)), np.array([len(target) for target in candidates]))


def score_answers(
    fitted: Fitted,
    prompts: Sequence[Prompt],
    batch_size: int = 16,
    progress: Progress = silent,
) -> AnswerScores:
    """Answer greedily and compare the first line with the target; arguments as for :func:`nll`.

    Raises:
        ValueError: There is no prompt.
    """
    exact, f1, right = (np.zeros(len(prompts)) for _ in range(3))
    for rows, done in batches(prompts, batch_size):
        for row, text in zip(rows, fitted.generate([prompts[row] for row in rows], ANSWER_TOKENS), strict=True):
            said = answers.first_line(text)
            wanted = [str(fitted.tokenizer.decode(list(prompts[row].target), skip_special_tokens=True)).strip()]
            exact[row], f1[row] = answers.exact_match(said, wanted), answers.f1(said, wanted)
            right[row] = answers.right(said, wanted)
        progress(f"answers of {fitted.name}", done, len(prompts))
    return AnswerScores(exact, f1, right)


def _sum_by_example(
    measure: Callable[[Sequence[Prompt]], Tensor],
    prompts: Sequence[Prompt],
    batch_size: int,
    progress: Callable[[int, int], None],
) -> Sums:
    """Add up what is measured at each target token, [labels], to one number an example."""
    total = np.zeros(len(prompts))
    for rows, values in by_example(lambda rows: measure([prompts[r] for r in rows]), prompts, batch_size, progress):
        total[rows] = [float(value.sum()) for value in values]
    return Sums(total, np.array([len(prompt.target) for prompt in prompts], dtype=np.float64))
