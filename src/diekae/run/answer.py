"""Greedy answers of D(x), D(K, x) and ours: what a user would see."""

from collections.abc import Sequence

import torch

from diekae.data.batch import pad_left
from diekae.data.prompt import Prompt
from diekae.model import DiekaeModel
from diekae.model.generation import generate_texts
from diekae.run.score import Way


@torch.no_grad()
def answer(model: DiekaeModel, prompts: Sequence[Prompt], way: Way, max_new_tokens: int) -> list[str]:
    """Answer a batch of prompts greedily in one way; their targets are not used. Return texts without control tokens.

    Raises:
        ValueError: There is no prompt, or ``max_new_tokens`` is below 1.
    """
    if not prompts or max_new_tokens < 1:
        raise ValueError(f"{len(prompts)} prompts and max_new_tokens={max_new_tokens}: expected at least one of each.")
    contexts = [context_of(model, prompt, way) for prompt in prompts]
    ids, mask = pad_left(contexts, model.need_prompter().tokenizer.pad_token_id, model.device)
    knowledge = model.prepare_prompts(prompts) if way == "ours" else None
    return generate_texts(model, ids, mask, knowledge, max_new_tokens=max_new_tokens)[0]


def context_of(model: DiekaeModel, prompt: Prompt, way: Way) -> tuple[int, ...]:
    """Return the tokens in the decoder's context."""
    if way != "prompted":
        return prompt.anchor + prompt.input
    second_anchor = prompt.anchor if model.config.anchor == "own" else ()
    return prompt.anchor + prompt.knowledge + second_anchor + prompt.input
