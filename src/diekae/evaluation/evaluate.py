"""Scores a bank on examples: D(x), D(K, x) and ours, with the right knowledge and with another example's."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from transformers import DynamicCache

from diekae.data.prompt import Prompt, other_knowledge, truncate_knowledge
from diekae.evaluation.metrics import Scores, perplexity
from diekae.fingerprint import window
from diekae.inject.hooks import frozen
from diekae.model import DiekaeModel
from diekae.progress import Progress, silent
from diekae.run.score import Way, forked, lay_out, logits_at, score, summed, target_logits
from diekae.run.timing import time_in_turn

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


def evaluate(
    model: DiekaeModel,
    prompts: Sequence[Prompt],
    *,
    scope: str | None = None,
    batch_size: int = 16,
    max_knowledge: int | None = None,
    time_passes: bool = True,
    progress: Progress = silent,
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
        ``n``, ``tokens``, NLL and perplexity of every pass, ``recovered``, ``grounded``; the same of the first token of
        each target (``first_token``); and ``seconds``.

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
        ways: tuple[Way, ...] = ("bare", "prompted", "ours")
        passes = [(str(way), way, prompts) for way in ways]
        if swapped is not None:
            passes += [(f"{way}_other", way, swapped) for way in ways[1:]]
        found, first = {}, {}
        for name, way, examples in passes:
            losses = score_way(model, examples, way, scope, batch_size, partial(progress, name))
            found[name] = summed(losses)
            first[name] = float(torch.stack([loss[0] for loss in losses]).mean())
        seconds = time_all(model, prompts, scope) if time_passes else None
    scores = Scores(**{name: value.mean for name, value in found.items()})
    return {
        "n": len(prompts),
        "tokens": int(found["bare"].tokens.sum()),
        "nll": {name: value.mean for name, value in found.items()},
        "perplexity": {name: perplexity(value.mean) for name, value in found.items()},
        "recovered": scores.recovered,
        "grounded": scores.grounded,
        "first_token": {"nll": first, **_shares(first)},
        "seconds": seconds,
    }


def _shares(means: Mapping[str, float]) -> dict[str, float | None]:
    scores = Scores(**means)
    return {"recovered": scores.recovered, "grounded": scores.grounded}


def score_way(
    model: DiekaeModel,
    prompts: Sequence[Prompt],
    way: Way,
    scope: str | None = None,
    batch_size: int = 16,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> list[torch.Tensor]:
    """Return the NLL of each example's target tokens, fp64 [tokens] each; see :func:`diekae.run.score.score`."""
    return score(
        lambda rows: target_logits(model, [prompts[row] for row in rows], way, scope=scope),
        prompts,
        batch_size,
        progress,
    )


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


def time_all(model: DiekaeModel, prompts: Sequence[Prompt], scope: str | None) -> dict[str, float]:
    """Return median seconds of one pass over one example, each way in turn, warmed up; the head runs alike in all.

    ``prompted`` reads K and x; ``prompted_cached`` reads x behind K's cached keys and values; ``prepare`` reads K
    once; ``ours`` reads x with K prepared.
    """
    ways: list[dict[str, Callable[[], object]]] = []
    for prompt in prompts[:TIMED_EXAMPLES]:
        batch = lay_out(model, [prompt], scope)
        all_prepared = model.prepare_prompts([prompt])
        prefix = int(batch["knowledge_start"][0]) + len(prompt.knowledge)
        ids, offset = batch["full_ids"], batch["offset"]
        cache = DynamicCache(config=model.decoder.config)
        model.decoder(input_ids=ids[:, :prefix], past_key_values=cache, use_cache=True, logits_to_keep=1)
        ways.append(
            {
                "bare": partial(target_logits, model, [prompt], "bare"),
                "prompted": partial(target_logits, model, [prompt], "prompted"),
                "prompted_cached": partial(_behind, model, ids[:, prefix:], batch["labels"], offset - prefix, cache),
                "prepare": partial(model.prepare_prompts, [prompt]),
                "ours": partial(target_logits, model, [prompt], "ours", all_prepared=all_prepared, scope=scope),
            }
        )
    taken = [time_in_turn(way, TIMED_ROUNDS) for way in ways]
    return {name: statistics.median(one[name] for one in taken) for name in taken[0]}


def _behind(
    model: DiekaeModel, ids: torch.Tensor, labels: torch.Tensor, offset: torch.Tensor, cache: DynamicCache
) -> object:
    return logits_at(model.decoder, ids, labels, offset, past_key_values=forked(cache), use_cache=True)
