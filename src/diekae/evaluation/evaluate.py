"""Measure a bank on examples: D(x), D(K, x) and ours, with the right knowledge and with another example's."""

import dataclasses
import statistics
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache

from diekae.data.batch import run_of
from diekae.data.prompt import Prompt, other_knowledge, truncate_knowledge
from diekae.evaluation.metrics import Scores, perplexity
from diekae.fingerprint import window
from diekae.inject.cache import forked
from diekae.inject.hooks import frozen
from diekae.model import DiekaeModel
from diekae.progress import Progress, silent
from diekae.run.score import Losses, Way, lay_out, logits_at, nll, target_logits
from diekae.run.timing import TimedCall, time_in_turn

PASSES = {
    "bare": "D(x)",
    "prompted": "D(K,x), K read each time",
    "prompted_cached": "D(K,x), K's keys and values cached",
    "ours": "ours, K prepared",
    "prepare": "preparing K, once a document",
}
"""The passes that are timed, and their names in tables."""
TIMED_EXAMPLES = 8
TIMED_ROUNDS = 3


def evaluate(
    model: DiekaeModel,
    prompts: Sequence[Prompt],
    *,
    batch_size: int = 16,
    max_knowledge: int | None = None,
    time_passes: bool = True,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Measure a bank.

    Args:
        model: Decoder and bank.
        prompts: Held-out examples with knowledge.
        batch_size: Examples of one pass.
        max_knowledge: Longest K in tokens.
        time_passes: Also measure the seconds of a pass, one example at a time.
        progress: Called as the passes go on.

    Returns:
        ``n``, ``tokens``, NLL and perplexity of every pass, ``recovered``, ``grounded``; the same of the first token of
        each target (``first_token``); and ``seconds``.

    Raises:
        ValueError: An example has no knowledge, or does not fit the decoder's window.
    """
    _check_knowledge(prompts)
    prompts = truncate_knowledge(prompts, max_knowledge, window(model.decoder))
    swapped = swap_knowledge(prompts, window(model.decoder), max_knowledge)
    with torch.no_grad(), frozen(model.decoder):
        losses = _losses(model, prompts, swapped, batch_size, progress)
        seconds = time_all(model, prompts) if time_passes else None
    means = {name: value.mean for name, value in losses.items()}
    first = {name: float(value.first.mean()) for name, value in losses.items()}
    return {
        "n": len(prompts),
        "tokens": int(losses["bare"].tokens.sum()),
        "nll": means,
        "perplexity": {name: perplexity(value) for name, value in means.items()},
        **_shares(means),
        "first_token": {"nll": first, **_shares(first)},
        "seconds": seconds,
    }


def _check_knowledge(prompts: Sequence[Prompt]) -> None:
    missing = [number for number, prompt in enumerate(prompts) if not prompt.knowledge]
    if missing or not prompts:
        raise ValueError(
            f"evaluation needs knowledge; {len(missing)} of {len(prompts)} examples have none (first: {missing[:1]})."
        )


def _losses(
    model: DiekaeModel, prompts: Sequence[Prompt], swapped: Sequence[Prompt] | None, batch_size: int, progress: Progress
) -> dict[str, Losses]:
    """Return the losses of every pass; those with another example's knowledge are named ``…_other``."""
    ways: tuple[Way, ...] = ("bare", "prompted", "ours")
    passes = [(str(way), way, prompts) for way in ways]
    if swapped is not None:
        passes += [(f"{way}_other", way, swapped) for way in ways[1:]]
    return {
        name: nll(model, examples, way, batch_size=batch_size, progress=partial(progress, name))
        for name, way, examples in passes
    }


def _shares(means: dict[str, float]) -> dict[str, float | None]:
    scores = Scores(**means)
    return {"recovered": scores.recovered, "grounded": scores.grounded}


def swap_knowledge(prompts: Sequence[Prompt], window: int, limit: int | None = None) -> list[Prompt] | None:
    """Give every example another one's knowledge, cut to ``limit`` and the window; None if all have the same."""
    partners = other_knowledge([prompt.knowledge for prompt in prompts])
    if partners is None:
        return None
    swapped = [
        dataclasses.replace(prompt, knowledge=prompts[partner].knowledge)
        for prompt, partner in zip(prompts, partners, strict=True)
    ]
    return truncate_knowledge(swapped, limit, window)


def time_all(model: DiekaeModel, prompts: Sequence[Prompt]) -> dict[str, float]:
    """Return the median seconds of one pass over one example, by the names of `PASSES`.

    Passes are timed in turn, after a warm-up. The head runs at the same columns in all of them.
    """
    seconds = [time_in_turn(timed_passes(model, prompt), TIMED_ROUNDS) for prompt in prompts[:TIMED_EXAMPLES]]
    return {name: statistics.median(times[name] for times in seconds) for name in seconds[0]}


def timed_passes(model: DiekaeModel, prompt: Prompt) -> dict[str, TimedCall]:
    """Return the passes over one example. Knowledge and the prompt's cache are prepared here, outside the passes."""
    batch = lay_out(model, [prompt])
    all_prepared = model.prepare_prompts([prompt])
    prefix = int(batch["knowledge_start"][0]) + len(prompt.knowledge)
    ids, offset = batch["full_ids"], batch["offset"]
    cache = DynamicCache(config=model.decoder.config)
    model.decoder(input_ids=ids[:, :prefix], cache=cache, use_cache=True, logits_to_keep=1)

    def behind(cache: Cache, ids: Tensor, offset: Tensor) -> Tensor:
        rest, shift = ids[:, cache.get_seq_length() :], offset - cache.get_seq_length()
        return logits_at(model.decoder, rest, batch["labels"], shift, cache=cache, use_cache=True)

    def ours() -> Tensor:
        # Without x's own anchor where nothing sees it, as in generation.
        input_ids, shift = run_of(batch, False)
        unseen = model.unseen_anchor(all_prepared, input_ids)
        if unseen is None:
            return target_logits(model, [prompt], "ours", all_prepared=all_prepared)
        with model.call_context(all_prepared, input_ids):
            return behind(unseen, input_ids, shift)

    return {
        "bare": partial(target_logits, model, [prompt], "bare"),
        "prompted": partial(target_logits, model, [prompt], "prompted"),
        "prompted_cached": lambda: behind(forked(cache), ids, offset),
        "prepare": partial(model.prepare_prompts, [prompt]),
        "ours": ours,
    }
