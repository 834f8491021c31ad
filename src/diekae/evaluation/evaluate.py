"""Scores a bank on examples: D(x), D(K, x) and ours, with the right knowledge and with another example's."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F
from transformers import DynamicCache

from diekae.data.prompt import IGNORED, Batch, Prompt, collate, other_knowledge, run_of, to_device, truncate_knowledge
from diekae.encoders import MemoryBatch
from diekae.evaluation.metrics import Scores, perplexity
from diekae.fingerprint import window
from diekae.inject.hooks import frozen
from diekae.model import DiekaeModel
from diekae.training.objectives import batch_memory, injected_logits, score_logits

Progress = Callable[[str, int, int], None]
PASSES = {
    "bare": "D(x)",
    "prompted": "D(K,x), K read each time",
    "prompted_cached": "D(K,x), K's keys and values cached",
    "ours": "ours, K prepared",
    "prepare": "preparing K, once a document",
}
"""What is timed, and its name for people."""
TIMED_EXAMPLES = 8
TIMED_ROUNDS = 3


class Nll(NamedTuple):
    """Summed NLL of one pass over the data."""

    total: float
    """Nats."""
    tokens: int
    """Target tokens."""

    @property
    def mean(self) -> float:
        """Return nats per token."""
        return self.total / self.tokens


def evaluate(
    model: DiekaeModel,
    prompts: Sequence[Prompt],
    *,
    scope: str | None = None,
    batch_size: int = 16,
    max_knowledge: int | None = None,
    time_passes: bool = True,
    progress: Progress = lambda _what, _done, _all: None,
) -> dict[str, Any]:
    """Measure a bank.

    Args:
        model: Decoder and bank.
        prompts: Held-out examples with knowledge.
        scope: ``prompt`` or ``all``; the bank's own if None.
        batch_size: Examples a pass.
        max_knowledge: Longest K in tokens.
        time_passes: Also measure seconds a pass, one example at a time.
        progress: Told which pass runs and how far it is.

    Returns:
        ``n``, ``tokens``, NLL and perplexity of every pass, ``recovered``, ``grounded`` and ``seconds``.

    Raises:
        ValueError: An example has no knowledge, or does not fit the decoder's window.
    """
    missing = [number for number, prompt in enumerate(prompts) if not prompt.knowledge]
    if missing or not prompts:
        raise ValueError(
            f"evaluation needs knowledge; {len(missing)} of {len(prompts)} examples have none (first: {missing[:1]})."
        )
    prompts = truncate_knowledge(prompts, max_knowledge, window(model.decoder))
    swapped = swap_knowledge(prompts, window(model.decoder), max_knowledge)
    with frozen(model.decoder), torch.no_grad():
        found = {
            "bare": nll(model, prompts, "bare", scope, batch_size, progress),
            "prompted": nll(model, prompts, "prompted", scope, batch_size, progress),
            "ours": nll(model, prompts, "ours", scope, batch_size, progress),
        }
        if swapped is not None:
            found["prompted_other"] = nll(model, swapped, "prompted", scope, batch_size, progress)
            found["ours_other"] = nll(model, swapped, "ours", scope, batch_size, progress)
        seconds = time_all(model, prompts, scope) if time_passes else None
    scores = Scores(**{name: value.mean for name, value in found.items()})
    return {
        "n": len(prompts),
        "tokens": found["bare"].tokens,
        "nll": {name: value.mean for name, value in found.items()},
        "perplexity": {name: perplexity(value.mean) for name, value in found.items()},
        "recovered": scores.recovered,
        "grounded": scores.grounded,
        "seconds": seconds,
    }


def swap_knowledge(prompts: Sequence[Prompt], window: int, limit: int | None = None) -> list[Prompt] | None:
    """Give every example another one's knowledge, cut to limit and window in tokens; None if all know the same."""
    partners = other_knowledge([prompt.knowledge for prompt in prompts])
    if partners is None:
        return None
    swapped = [
        dataclasses.replace(prompt, knowledge=prompts[partner].knowledge)
        for prompt, partner in zip(prompts, partners, strict=True)
    ]
    return truncate_knowledge(swapped, limit, window)


@torch.no_grad()
def nll(
    model: DiekaeModel, prompts: Sequence[Prompt], how: str, scope: str | None, batch_size: int, progress: Progress
) -> Nll:
    """Sum the NLL of all targets in one of the ways ``bare``, ``prompted`` or ``ours``.

    Examples of like length go together; the sum does not depend on it.
    """
    order = sorted(prompts, key=lambda p: len(p.knowledge) + len(p.input) + len(p.target))
    total, tokens = 0.0, 0
    for start in range(0, len(order), batch_size):
        batch = lay_out(model, order[start : start + batch_size], scope)
        labels = batch["labels"][batch["labels"] != IGNORED]
        logits = target_logits(model, batch, how)
        total += float(F.cross_entropy(logits.float(), labels, reduction="sum"))
        tokens += len(labels)
        progress(how, min(len(order), start + batch_size), len(order))
    return Nll(total, tokens)


def lay_out(model: DiekaeModel, prompts: Sequence[Prompt], scope: str | None = None) -> Batch:
    """Lay a batch out as the bank was trained, on the model's device."""
    return to_device(collate(prompts, scope=scope or model.config.scope, anchor=model.config.anchor), model.device)


def target_logits(model: DiekaeModel, batch: Batch, how: str, memory: MemoryBatch | None = None) -> torch.Tensor:
    """Return the logits that predict the targets of a batch, [labels, vocabulary].

    Args:
        model: Decoder and bank.
        batch: From :func:`lay_out`.
        how: ``bare``, ``prompted`` or ``ours``.
        memory: What ours knows; the batch's own knowledge, prepared now, if None.
    """
    if how == "ours":
        return injected_logits(model, batch, memory)[0]
    ids, offset = run_of(batch, how == "prompted")
    return score_logits(model, ids, batch["labels"], offset)


def time_all(model: DiekaeModel, prompts: Sequence[Prompt], scope: str | None) -> dict[str, float]:
    """Return median seconds of one pass over one example, each way in turn, warmed up.

    ``prompted`` reads K and x; ``prompted_cached`` reads x behind K's cached keys and values; ``prepare`` reads K
    once; ``ours`` reads x with K prepared.
    """

    def passes(prompt: Prompt) -> dict[str, Callable[[], object]]:
        batch = lay_out(model, [prompt], scope)
        memory = batch_memory(model, batch)
        prefix = int(batch["knowledge_start"][0]) + len(prompt.knowledge)
        cache = DynamicCache(config=model.decoder.config)
        model.decoder(input_ids=batch["full_ids"][:, :prefix], past_key_values=cache, use_cache=True)
        rest = batch["full_ids"][:, prefix:]
        return {
            "bare": lambda: target_logits(model, batch, "bare"),
            "prompted": lambda: target_logits(model, batch, "prompted"),
            "prompted_cached": lambda: model.decoder(input_ids=rest, past_key_values=cache, use_cache=True),
            "prepare": lambda: batch_memory(model, batch),
            "ours": lambda: target_logits(model, batch, "ours", memory),
        }

    return time_in_turn(prompts, passes)


def time_in_turn(
    prompts: Sequence[Prompt], passes: Callable[[Prompt], Mapping[str, Callable[[], object]]]
) -> dict[str, float]:
    """Return median seconds of several passes over single examples, one after the other, so that noise meets all alike.

    Args:
        prompts: Examples; a few are enough.
        passes: Names what is run for an example; called anew each round, and not timed.
    """
    taken: dict[str, list[float]] = {}
    for number in range(TIMED_ROUNDS + 1):
        for prompt in prompts[:TIMED_EXAMPLES]:
            for name, run in passes(prompt).items():
                _synchronize()
                start = time.perf_counter()
                run()
                _synchronize()
                if number:  # the first round warms up
                    taken.setdefault(name, []).append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in taken.items()}


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
