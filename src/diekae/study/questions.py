"""Self-study: the decoder asks questions about a text and answers them with the text in its prompt.

It is shown one sentence at a time, which small decoders need. A question is kept only if it is about the text and its
answer follows from it: the words of both stand there, and the text makes the answer likelier. The idea is that of
Cartridges (Eyuboglu et al., 2025, arXiv 2506.06266), which trains on conversations about a corpus.
"""

from __future__ import annotations

import math
import random
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from diekae.data.batch import pad_left
from diekae.data.example import Example
from diekae.data.prompt import Prompt
from diekae.inject.contexts import paused
from diekae.model import DiekaeModel
from diekae.model.generation import greedy_options
from diekae.progress import Progress, silent
from diekae.run.answer import answer
from diekae.run.score import nll
from diekae.store.words import normalized_words, query_words
from diekae.study.folder import Window

SHOWN = """Text: The library in Marrow Lane opens at nine and closes at six, except on Sundays.
Question: When does the library in Marrow Lane close?

Text: Ms Oduya signed the lease for the bakery in March 2019, together with her brother.
Question: Who signed the lease together with Ms Oduya?

Text: Wash the filter every ten days, or sooner if the red lamp blinks.
Question: How often should the filter be washed?

Text: {sentence}
Question:"""
"""What the decoder continues. The three examples are invented."""
ROUNDS = 3
"""How often every sentence is asked about at most; rounds after the first draw other questions."""
QUESTION_TOKENS, ANSWER_TOKENS = 28, 32
"""Longest question and answer."""
GAIN = 0.3
"""Least nats a token by which the text must make an answer likelier."""
SUPPORT = 0.6
"""Least share of the words of a question, and of an answer, that must stand in the text."""
BATCH = 16
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")


@dataclass
class Studied:
    """What self-study brought."""

    examples: list[Example]
    """Questions that were kept, each with its window as knowledge."""
    asked: int = 0
    """Questions that were generated."""


def study(
    model: DiekaeModel,
    windows: Sequence[Window],
    questions: int,
    seed: int,
    what: str,
    progress: Progress = silent,
    until: float = math.inf,
) -> Studied:
    """Ask and answer questions about windows until so many are kept, or every sentence was asked about.

    Args:
        model: A decoder with a tokenizer, and the format of the bank that is to be trained.
        windows: The texts.
        questions: Questions wanted.
        seed: Decides the order of the sentences, and what is drawn.
        what: Name of the work, for progress.
        progress: Called as the work goes on.
        until: When to stop with what there is, by ``time.monotonic``.
    """
    studied, seen = Studied([]), set[tuple[str, str]]()
    torch.manual_seed(seed)
    for round_number, batch in _batches(windows, seed):
        if len(studied.examples) >= questions or time.monotonic() > until:
            break
        asked = generate_questions(model, [sentence for _, sentence in batch], draw=round_number > 0)
        studied.asked += len(batch)
        pairs = []
        for (window, _), question in zip(batch, asked, strict=True):
            if question and (window.text, question) not in seen and is_about(question, window.text):
                seen.add((window.text, question))
                pairs.append((window, question))
        studied.examples += answer_questions(model, pairs)
        progress(what, min(len(studied.examples), questions), questions)
    studied.examples = studied.examples[:questions]
    return studied


def _batches(windows: Sequence[Window], seed: int) -> Iterator[tuple[int, list[tuple[Window, str]]]]:
    """Yield batches of sentences with their windows and the number of the round, in a random order."""
    pairs = [(window, sentence) for window in windows for sentence in sentences(window.text)]
    for round_number in range(ROUNDS):
        random.Random(seed + round_number).shuffle(pairs)
        for start in range(0, len(pairs), BATCH):
            yield round_number, pairs[start : start + BATCH]


def sentences(text: str) -> list[str]:
    """Return the sentences of a text that can be asked about."""
    pieces = [piece.strip(" \t#>*-") for piece in _SENTENCE.split(text)]
    return [piece for piece in pieces if 5 <= len(piece.split()) <= 45]


@torch.no_grad()
def generate_questions(model: DiekaeModel, texts: Sequence[str], draw: bool) -> list[str]:
    """Return a question about each sentence, empty where none was asked.

    Args:
        model: Decoder and tokenizer.
        texts: Sentences.
        draw: Draw the questions; otherwise take the likeliest.
    """
    prompter = model.need_prompter()
    tokenizer, anchor = prompter.tokenizer, prompter.anchor("plain")
    # No blank behind the last colon: it belongs to the next token.
    ends = [prompter.input(SHOWN.format(sentence=text), "plain") for text in texts]
    blank = len(prompter.input("x", "plain")) - len(tokenizer("x", add_special_tokens=False).input_ids)
    rows = [anchor + (end[:-blank] if blank else end) for end in ends]
    ids, mask = pad_left(rows, tokenizer.pad_token_id, model.device)
    options = greedy_options(QUESTION_TOKENS, tokenizer)
    if draw:
        options |= {"do_sample": True, "temperature": 0.8, "top_p": 0.9}
    with paused():
        generated = model.decoder.generate(input_ids=ids, attention_mask=mask, **options)  # type: ignore[operator]
    return [find_question(str(text)) for text in tokenizer.batch_decode(generated[:, ids.shape[1] :])]


def find_question(text: str) -> str:
    """Return the question on the first line of a text; empty where there is none."""
    line = text.strip().partition("\n")[0]
    question, mark, _ = line.partition("?")
    return question.strip() + mark if mark and 3 <= len(question.split()) <= 25 else ""


def is_about(question: str, text: str) -> bool:
    """Tell whether the words of a question stand in a text, and at least two of them do."""
    words = query_words(question)
    held = set(normalized_words(text))
    common = sum(word in held for word in words)
    return common >= max(2, SUPPORT * len(words))


def follows(answer: str, text: str, question: str) -> bool:
    """Tell whether the words of an answer stand in the text, and it says something that the question does not."""
    words = [word for word in query_words(answer) if word not in set(normalized_words(question))]
    held = set(normalized_words(text))
    return bool(words) and sum(word in held for word in words) >= SUPPORT * len(words)


def answer_questions(model: DiekaeModel, pairs: Sequence[tuple[Window, str]]) -> list[Example]:
    """Answer questions with the text in the prompt, and keep those whose answer follows from it."""
    if not pairs:
        return []
    prompter = model.need_prompter()
    drafts = [Example((window.text,), question, "x") for window, question in pairs]
    answers = answer(model, [prompter.prompt(draft) for draft in drafts], "prompted", ANSWER_TOKENS)
    lines = [text.partition("\n")[0].strip() for text in answers]
    examples = [
        Example(draft.knowledge, draft.input, line)
        for draft, line in zip(drafts, lines, strict=True)
        if line and follows(line, draft.knowledge[0], draft.input)
    ]
    if not examples:
        return []
    prompts: list[Prompt] = [prompter.prompt(example) for example in examples]
    bare, prompted = (nll(model, prompts, way, batch_size=BATCH) for way in ("bare", "prompted"))
    gains = ((bare.total - prompted.total) / prompted.tokens).tolist()
    return [example for example, gain in zip(examples, gains, strict=True) if gain >= GAIN]
