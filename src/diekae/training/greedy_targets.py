"""Targets that the decoder generates itself: answers of D(K, x), which are seldom worded like those of a data set."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from diekae.data.batch import pad_left
from diekae.data.mixture import is_chosen
from diekae.data.prompt import Prompt
from diekae.files import write_atomically
from diekae.inject.contexts import paused
from diekae.inject.hooks import contiguous_head
from diekae.model import DiekaeModel
from diekae.model.generation import greedy_options
from diekae.progress import BatchProgress, silent
from diekae.run.answer import context_of
from diekae.run.score import batches

MAX_TOKENS = 24
"""Longest answer, in tokens."""
MAX_KNOWLEDGE = 512
"""Examples with a longer K, in tokens, keep their targets, because reading K takes most of the time."""
BATCH = 16
"""Examples in one call of ``generate``."""


@torch.no_grad()
def use_greedy_targets(
    model: DiekaeModel, prompts: Sequence[Prompt], share: float, path: Path, progress: BatchProgress = silent
) -> list[Prompt]:
    """Replace the targets of a share of the examples by greedy answers of D(K, x), up to the end of the first line.

    The share is evenly spread. Examples without knowledge, with long knowledge or without an answer keep their targets.
    The answers are stored at the path, so that a resumed run has the same.
    """
    numbers = [
        number
        for number, prompt in enumerate(prompts)
        if is_chosen(number, share) and 0 < len(prompt.knowledge) <= MAX_KNOWLEDGE
    ]
    if not numbers:
        return list(prompts)
    chosen = [prompts[number] for number in numbers]
    answers = _read_answers(path, chosen)
    if answers is None:
        answers = _generate(model, chosen, progress)
        write_atomically(path, json.dumps({"digest": _digest(chosen, answers), "answers": answers}))
    replaced = list(prompts)
    for number, answer in zip(numbers, answers, strict=True):
        if answer:
            replaced[number] = replace(prompts[number], target=tuple(answer))
    return replaced


def _read_answers(path: Path, prompts: Sequence[Prompt]) -> list[list[int]] | None:
    """Return the stored answers to these prompts; None if the file is missing, damaged or of other prompts."""
    try:
        stored = json.loads(path.read_text())
        answers: list[list[int]] = stored["answers"]
        return answers if stored["digest"] == _digest(prompts, answers) else None
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _digest(prompts: Sequence[Prompt], answers: list[list[int]]) -> str:
    return hashlib.sha256(repr((list(prompts), answers)).encode()).hexdigest()


def _generate(model: DiekaeModel, prompts: Sequence[Prompt], progress: BatchProgress) -> list[list[int]]:
    """Return the tokens of each greedy answer, including its line break."""
    tokenizer = model.need_prompter().tokenizer
    answers: list[list[int]] = [[] for _ in prompts]
    for rows, done in batches(prompts, BATCH):
        contexts = [context_of(model, prompts[row], "prompted") for row in rows]
        ids, mask = pad_left(contexts, tokenizer.pad_token_id, model.device)
        with paused(), contiguous_head(model.decoder):
            generated = model.decoder.generate(  # type: ignore[operator]
                input_ids=ids, attention_mask=mask, **greedy_options(MAX_TOKENS, tokenizer)
            )
        for row, tokens in zip(rows, generated[:, ids.shape[1] :].tolist(), strict=True):
            answers[row] = _first_line(tokenizer, tokens)
        progress(done, len(prompts))
    return answers


def _first_line(tokenizer: PreTrainedTokenizerBase, tokens: list[int]) -> list[int]:
    """Cut an answer after its first line break or special token; return nothing if it begins with one."""
    for end, token in enumerate(tokens, 1):
        if token in tokenizer.all_special_ids or "\n" in str(tokenizer.decode([token])):
            return tokens[:end] if end > 1 else []
    return tokens
