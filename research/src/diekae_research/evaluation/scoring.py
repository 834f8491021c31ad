"""Scores of fitted methods: sums for each example, so that every figure can be bootstrapped afterwards."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from diekae.data.example import Example
from diekae.data.prompt import Prompt, Prompter
from diekae.evaluation import answers
from diekae.progress import Progress, silent
from diekae.run.score import batches, by_example
from diekae_research.methods import Fitted

ANSWER_TOKENS = 24
"""Longest generated answer."""
Numbers = NDArray[np.float64]


class Sums(NamedTuple):
    """A quantity of target tokens, summed over each example's target."""

    total: Numbers
    """Nats, [examples]."""
    tokens: Numbers
    """Target tokens, [examples]."""

    @property
    def mean(self) -> float:
        """Return nats per token, all tokens weighted equally."""
        return float(self.total.sum() / self.tokens.sum())


class LabelScores(NamedTuple):
    """Log-likelihoods of candidate answers."""

    total: Numbers
    """Log-likelihood of the whole candidate in nats, [examples, candidates]."""
    tokens: NDArray[np.int64]
    """Tokens of the candidates, [candidates]."""

    @property
    def choices(self) -> NDArray[np.int64]:
        """Return the likeliest candidate of each example."""
        likeliest: NDArray[np.int64] = self.total.argmax(1)
        return likeliest

    @property
    def choices_by_length(self) -> NDArray[np.int64]:
        """Return the candidate that is likeliest per token, which does not favour short ones."""
        likeliest: NDArray[np.int64] = (self.total / self.tokens).argmax(1)
        return likeliest


class AnswerScores(NamedTuple):
    """Scores of greedy answers, by SQuAD's definitions."""

    exact: Numbers
    """1 where the answer equals the target, else 0; [examples]."""
    f1: Numbers
    """Token F1, [examples]."""
    right: Numbers
    """1 where the answer's first line contains the target, else 0; [examples]."""


def nll(
    fitted: Fitted,
    prompts: Sequence[Prompt],
    batch_size: int = 16,
    progress: Progress = silent,
) -> Sums:
    """Return the negative log-likelihood of each example's target; examples of similar length run together.

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
    """Return KL(D(x) ‖ method) in nats, over target tokens: how much irrelevant knowledge changes.

    Args:
        bare: The method ``bare``.
        fitted: The method that is compared with it.
        prompts: Examples with irrelevant knowledge, as from :func:`diekae.evaluation.evaluate.swap_knowledge`.
        batch_size: Examples a pass.
        progress: Called as the work goes on.

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
    """Return the log-likelihood of each candidate as each example's target; the targets themselves are not read.

    Args:
        fitted: Any method.
        prompts: Examples to classify.
        candidates: Tokens of the labels, as from :func:`label_targets`.
        batch_size: Rows a pass, each an example with one candidate.
        progress: Called as the work goes on.

    Raises:
        ValueError: There are fewer than two candidates, one is empty, or there is no prompt.
    """
    if len(candidates) < 2 or not all(candidates):
        raise ValueError(f"candidates={list(candidates)} must be at least two labels of at least one token each.")
    rows = [dataclasses.replace(prompt, target=target) for prompt in prompts for target in candidates]
    losses = nll(fitted, rows, batch_size, progress)
    return LabelScores(-losses.total.reshape(-1, len(candidates)), np.array([len(target) for target in candidates]))


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
    lines = first_lines(fitted, prompts, ANSWER_TOKENS, batch_size, progress)
    return compare_answers(lines, target_texts(fitted.tokenizer, prompts))


def first_lines(
    fitted: Fitted, prompts: Sequence[Prompt], max_new_tokens: int, batch_size: int = 16, progress: Progress = silent
) -> list[str]:
    """Return the first line of each greedy answer; arguments as for :func:`nll`.

    Raises:
        ValueError: There is no prompt.
    """
    lines = [""] * len(prompts)
    for rows, done in batches(prompts, batch_size):
        texts = fitted.generate([prompts[row] for row in rows], max_new_tokens)
        for row, text in zip(rows, texts, strict=True):
            lines[row] = answers.first_line(text)
        progress(f"answers of {fitted.name}", done, len(prompts))
    return lines


def target_texts(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]) -> list[str]:
    """Return the targets as texts."""
    return [str(tokenizer.decode(list(prompt.target), skip_special_tokens=True)).strip() for prompt in prompts]


def compare_answers(lines: Sequence[str], targets: Sequence[str]) -> AnswerScores:
    """Score answers against one target each."""
    measures = (answers.exact_match, answers.f1, answers.right)
    columns = [[score(line, [target]) for line, target in zip(lines, targets, strict=True)] for score in measures]
    return AnswerScores(*map(np.array, columns))


def _sum_by_example(
    measure: Callable[[Sequence[Prompt]], Tensor],
    prompts: Sequence[Prompt],
    batch_size: int,
    progress: Callable[[int, int], None],
) -> Sums:
    """Sum a quantity of target tokens, [labels], over each example."""
    total = np.zeros(len(prompts))
    for rows, values in by_example(lambda rows: measure([prompts[r] for r in rows]), prompts, batch_size, progress):
        total[rows] = [float(value.sum()) for value in values]
    return Sums(total, np.array([len(prompt.target) for prompt in prompts], dtype=np.float64))
