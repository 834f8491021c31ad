"""Targets that the decoder itself says of K: what users see is generated, and seldom in the words of a data set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from diekae.data.prompt import Prompt, pad_left
from diekae.files import write_atomically
from diekae.inject.injection import paused
from diekae.model import DiekaeModel
from diekae.run.score import batches

LONGEST = 24
"""Tokens of an answer."""
LONGEST_KNOWLEDGE = 512
"""Tokens of K; longer ones keep their targets, for reading them takes most of the time."""


@torch.no_grad()
def answer_some(
    model: DiekaeModel,
    prompts: Sequence[Prompt],
    share: float,
    path: Path,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> list[Prompt]:
    """Replace the targets of some examples by what D(K, x) says greedily, up to the end of its line.

    Args:
        model: Decoder and tokenizer.
        prompts: Examples.
        share: How many of them, evenly spread; those without knowledge, with
                long one, or without an answer keep their target.
        path: Where the answers are kept, so that a resumed run has the same.
        progress: Told how far it is.
    """
    chosen = [
        number
        for number, prompt in enumerate(prompts)
        if int((number + 1) * share) > int(number * share) and 0 < len(prompt.knowledge) <= LONGEST_KNOWLEDGE
    ]
    if not chosen:
        return list(prompts)
    digest = hashlib.sha256(repr([prompts[number] for number in chosen]).encode()).hexdigest()
    kept = json.loads(path.read_text()) if path.is_file() else {}
    if kept.get("digest") != digest:
        said = _answers(model, [prompts[number] for number in chosen], progress)
        kept = {"digest": digest, "answers": said}
        write_atomically(path, json.dumps(kept))
    found = list(prompts)
    for number, answer in zip(chosen, kept["answers"], strict=True):
        if answer:
            found[number] = replace(prompts[number], target=tuple(answer))
    return found


def _answers(model: DiekaeModel, prompts: Sequence[Prompt], progress: Callable[[int, int], None]) -> list[list[int]]:
    """Return the tokens of each greedy answer, its line break among them."""
    tokenizer = model.need_prompter().tokenizer
    found: list[list[int]] = [[] for _ in prompts]
    for rows, done in batches(prompts, 16):
        given = [prompts[row].anchor + prompts[row].knowledge + prompts[row].input for row in rows]
        ids, mask = pad_left(given, tokenizer.pad_token_id, model.device)
        with paused():
            made = model.decoder.generate(  # type: ignore[operator]
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=LONGEST,
                do_sample=False,
                pad_token_id=tokenizer.pad_token_id or 0,
            )
        for row, tokens in zip(rows, made[:, ids.shape[1] :].tolist(), strict=True):
            found[row] = _line(model, tokens)
        progress(done, len(prompts))
    return found


def _line(model: DiekaeModel, tokens: list[int]) -> list[int]:
    """Cut an answer behind its first line; nothing is left of one that begins with a line break."""
    tokenizer = model.need_prompter().tokenizer
    for end, token in enumerate(tokens, 1):
        if token in tokenizer.all_special_ids or "\n" in str(tokenizer.decode([token])):
            return tokens[:end] if end > 1 else []
    return tokens
