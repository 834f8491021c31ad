"""Greedy answers of D(x), D(K, x) and ours: what a user would see.

Shapes: B prompts, T columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from diekae.data.batch import pad_left
from diekae.data.prompt import Prompt
from diekae.model import DiekaeModel
from diekae.run.score import Way


@torch.no_grad()
def answer(model: DiekaeModel, prompts: Sequence[Prompt], way: Way, max_new_tokens: int) -> list[str]:
    """Answer a batch of prompts greedily.

    Args:
        model: Decoder, bank and tokenizer.
        prompts: B prompts; their targets are not used.
        way: ``bare`` for D(x), ``prompted`` for D(K, x), ``ours`` for K injected.
        max_new_tokens: Longest answer, in tokens.

    Returns:
        B texts, without control tokens.

    Raises:
        ValueError: There is no prompt, or ``max_new_tokens`` is below 1.
    """
    if not prompts or max_new_tokens < 1:
        raise ValueError(f"{len(prompts)} prompts and max_new_tokens={max_new_tokens}: expected at least one of each.")
    tokenizer = model.need_prompter().tokenizer
    contexts = [_context(model, prompt, way) for prompt in prompts]
    ids, mask = pad_left(contexts, tokenizer.pad_token_id, model.decoder.device)
    knowledge = model.prepare_prompts(prompts) if way == "ours" else None
    options = greedy_options(max_new_tokens, tokenizer)
    generated = model.generate(ids, attention_mask=mask, knowledge=knowledge, **options)
    rows = until_end(generated[:, ids.shape[1] :], model.decoder)
    return [str(tokenizer.decode(row, skip_special_tokens=True)).strip() for row in rows]


def _context(model: DiekaeModel, prompt: Prompt, way: Way) -> tuple[int, ...]:
    """Return the tokens in the decoder's context."""
    if way != "prompted":
        return prompt.anchor + prompt.input
    second_anchor = prompt.anchor if model.config.anchor == "own" else ()
    return prompt.anchor + prompt.knowledge + second_anchor + prompt.input


def greedy_options(max_new_tokens: int, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return the arguments of ``generate`` that make it greedy, whatever the decoder's generation settings."""
    return {
        "max_new_tokens": max_new_tokens,
        "do_sample": False,
        "num_beams": 1,
        "temperature": None,
        "top_p": None,
        "top_k": None,
        "pad_token_id": tokenizer.pad_token_id or 0,
    }


def until_end(generated: Tensor, decoder: PreTrainedModel) -> list[list[int]]:
    """Cut generated rows [B, T] after the first end token, because the padding token may be an ordinary token."""
    ends, rows = end_tokens(decoder), generated.tolist()
    return [row[: next((n for n, token in enumerate(row, 1) if token in ends), len(row))] for row in rows]


def end_tokens(decoder: PreTrainedModel) -> set[int]:
    """Return the tokens that end a generated text."""
    ends = getattr(decoder.generation_config, "eos_token_id", None)
    return set(ends) if isinstance(ends, list) else set() if ends is None else {ends}
