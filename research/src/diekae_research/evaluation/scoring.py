"""Scores of fitted methods: sums for each example, so that every figure can be bootstrapped afterwards."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

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


def count_tokens(prompts: Sequence[Prompt]) -> Numbers:
    """Return the tokens of each target."""
    return np.array([len(prompt.target) for prompt in prompts], dtype=np.float64)


def nll(
    fitted: Fitted,
    prompts: Sequence[Prompt],
    batch_size: int = 16,
    progress: Progress = silent,
) -> Numbers:
    """Return the negative log-likelihood of each example's target in nats; examples of similar length run together.

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
) -> Numbers:
    """Return KL(D(x) ‖ method) in nats, summed over each target's tokens: how much irrelevant knowledge changes.

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


def paper_perplexity(nll: Sequence[float], tokens: Sequence[float], batch_size: int) -> float:
    """Return what the paper prints as perplexity: 2^nats of a mean of batch means (design, section 7).

    Only to compare our figures with the paper's; use :func:`diekae.evaluation.metrics.perplexity` for anything else.

    Args:
        nll: Summed nats of each example's target, in the order of the batches.
        tokens: Target tokens of each example.
        batch_size: Examples a batch.

    Raises:
        ValueError: There is no example, the lengths differ, or the batch size is below 1.
    """
    if not len(nll) or len(nll) != len(tokens) or batch_size < 1:
        raise ValueError(f"got {len(nll)} sums, {len(tokens)} token counts and batch_size={batch_size}.")
    batches = [slice(start, start + batch_size) for start in range(0, len(nll), batch_size)]
    means = [sum(nll[batch]) / sum(tokens[batch]) for batch in batches]
    return float(2.0 ** min(sum(means) / len(means), 1000.0))


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
) -> dict[str, NDArray[np.int64]]:
    """Return the likeliest candidate of each example, as a whole (``likelihood``) and per token (``by_length``).

    The targets themselves are not read. The choice per token does not favour short candidates.

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
    losses = nll(fitted, rows, batch_size, progress).reshape(-1, len(candidates))
    tokens = np.array([len(target) for target in candidates])
    return {"likelihood": losses.argmin(1), "by_length": (losses / tokens).argmin(1)}


def score_answers(
    fitted: Fitted,
    prompts: Sequence[Prompt],
    batch_size: int = 16,
    progress: Progress = silent,
) -> dict[str, Numbers]:
    """Answer greedily and score each answer's first line by :func:`compare_answers`; arguments as for :func:`nll`.

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


def compare_answers(lines: Sequence[str], targets: Sequence[str]) -> dict[str, Numbers]:
    """Score answers against one target each: ``exact``, ``f1`` and ``right``, by SQuAD's definitions, [examples]."""
    measures = {"exact": answers.exact_match, "f1": answers.f1, "right": answers.right}
    pairs = list(zip(lines, targets, strict=True))
    return {
        name: np.array([score(line, [target]) for line, target in pairs], dtype=np.float64)
        for name, score in measures.items()
    }


def _sum_by_example(
    measure: Callable[[Sequence[Prompt]], Tensor],
    prompts: Sequence[Prompt],
    batch_size: int,
    progress: Callable[[int, int], None],
) -> Numbers:
    """Sum a quantity of target tokens, [labels], over each example."""
    total = np.zeros(len(prompts))
    for rows, values in by_example(lambda rows: measure([prompts[r] for r in rows]), prompts, batch_size, progress):
        total[rows] = [float(value.sum()) for value in values]
    return total
