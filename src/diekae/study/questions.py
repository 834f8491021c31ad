"""Self-study: the decoder asks questions about a text and answers them.

It sees one sentence at a time, because small decoders ask poor questions about longer texts. A question is kept only
if it is about the sentence, its answer follows from the sentence, and the whole text makes the answer likelier. The
idea is that of Cartridges (Eyuboglu et al., 2025, arXiv 2506.06266), which trains on conversations about a corpus.
"""

import math
import random
import re
import time
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, StoppingCriteria

from diekae.data.batch import pad_left
from diekae.data.example import Example
from diekae.data.prompt import Prompt
from diekae.inject.contexts import paused
from diekae.inject.hooks import contiguous_head
from diekae.model import DiekaeModel
from diekae.model.generation import greedy_options
from diekae.progress import Progress, silent
from diekae.run.score import nll
from diekae.store.words import normalized_words, query_words
from diekae.study.folder import Window

SHOWN = """Text: The library in Marrow Lane opens at nine and closes at six, except on Sundays.
Question: When does the library in Marrow Lane close?
Answer: at six

Text: Ms Oduya signed the lease for the bakery in March 2019, together with her brother.
Question: Who signed the lease together with Ms Oduya?
Answer: her brother

Text: Wash the filter every ten days, or sooner if the red lamp blinks.
Question: How often should the filter be washed?
Answer: every ten days

Text: {sentence}
Question:"""
"""The prompt, which the decoder continues with a question and its answer. The three examples are invented."""
FEWEST = 4
"""Questions that are asked even if the time is over."""
ROUNDS = 3
"""Most questions about one sentence. The first is the likeliest; the others are sampled."""
TOKENS = 48
"""Most tokens of a question with its answer."""
GAIN = 0.3
"""Least nats per token by which the text must make an answer likelier."""
ABOUT, SUPPORT = 0.5, 0.6
"""Least share of the words of a question, and of an answer, that must be in the sentence."""
STEM = 4
"""Words are equal if their first letters are, this many: *costs* and *cost*."""
BATCH = 16
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")


def study(
    model: DiekaeModel,
    windows: Sequence[Window],
    questions: int,
    seed: int,
    what: str,
    progress: Progress = silent,
    until: float = math.inf,
) -> list[Example]:
    """Ask and answer questions about windows, until enough are kept or each sentence was asked about `ROUNDS` times.

    It stops at ``until``, by ``time.monotonic``, once `FEWEST` questions are kept. ``what`` names the work in progress
    reports.

    Returns:
        The questions that were kept, each with its window as knowledge.
    """
    kept, seen = list[Example](), set[tuple[str, str]]()
    torch.manual_seed(seed)
    for round_number, batch in _batches(windows, seed):
        late = time.monotonic() > until and len(kept) >= FEWEST
        if late or len(kept) >= questions:
            break
        texts = continue_sentences(model, [sentence for _, sentence in batch], draw=round_number > 0)
        drafts = []
        for (window, sentence), (question, answer) in zip(batch, map(find_pair, texts), strict=True):
            new = (window.text, question) not in seen
            if new and is_about(question, sentence) and follows(answer, sentence, question):
                seen.add((window.text, question))
                drafts.append(Example((window.text,), question, answer))
        kept += likelier(model, drafts)
        progress(what, min(len(kept), questions), questions)
    return kept[:questions]


def _batches(windows: Sequence[Window], seed: int) -> Iterator[tuple[int, list[tuple[Window, str]]]]:
    """Yield the number of the round and a batch of sentences with their windows, in random order."""
    pairs = [(window, sentence) for window in windows for sentence in sentences(window.text)]
    for round_number in range(ROUNDS):
        random.Random(seed + round_number).shuffle(pairs)
        for start in range(0, len(pairs), BATCH):
            yield round_number, pairs[start : start + BATCH]


def sentences(text: str) -> list[str]:
    """Return the sentences of a text that are neither too short nor too long to ask about."""
    pieces = [piece.strip(" \t#>*-") for piece in _SENTENCE.split(text)]
    return [piece for piece in pieces if 5 <= len(piece.split()) <= 45]


@torch.no_grad()
def continue_sentences(model: DiekaeModel, texts: Sequence[str], draw: bool) -> list[str]:
    """Return the decoder's continuation of the prompt for each sentence, greedy or drawn: a question and its answer."""
    prompter = model.need_prompter()
    tokenizer, anchor = prompter.tokenizer, prompter.anchor("plain")
    # No blank behind the last colon: it belongs to the next token.
    ends = [prompter.input(SHOWN.format(sentence=text), "plain") for text in texts]
    blank = len(prompter.input("x", "plain")) - len(tokenizer("x", add_special_tokens=False).input_ids)
    rows = [anchor + (end[:-blank] if blank else end) for end in ends]
    ids, mask = pad_left(rows, tokenizer.pad_token_id, model.device)
    options = greedy_options(TOKENS, tokenizer) | {"stopping_criteria": [_TwoLines(tokenizer, ids.shape[1])]}
    if draw:
        options |= {"do_sample": True, "temperature": 0.8, "top_p": 0.9}
    with paused(), contiguous_head(model.decoder):
        generated = model.decoder.generate(input_ids=ids, attention_mask=mask, **options)  # type: ignore[operator]
    return [str(text) for text in tokenizer.batch_decode(generated[:, ids.shape[1] :])]


class _TwoLines(StoppingCriteria):
    """Ends each row after its second line."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, start: int) -> None:
        self.tokenizer, self.start = tokenizer, start

    def __call__(self, input_ids: Tensor, scores: object, **_: object) -> Tensor:  # noqa: ARG002
        texts = self.tokenizer.batch_decode(input_ids[:, self.start :])
        return torch.tensor([str(text).count("\n") > 1 for text in texts], device=input_ids.device)


def find_pair(text: str) -> tuple[str, str]:
    """Return the question in a text's first line and the answer in its second; two empty texts if one is missing."""
    first, second, *_ = [*text.strip(" ").split("\n"), ""]
    question, mark, _ = first.partition("?")
    complete = text.count("\n") > 1  # otherwise the answer may have been cut off
    if not mark or not 3 <= len(question.split()) <= 25 or not second.startswith("Answer:") or not complete:
        return "", ""
    return question.strip() + mark, second.removeprefix("Answer:").strip()


def is_about(question: str, sentence: str) -> bool:
    """Tell whether enough words of a question are in a sentence."""
    return _share(_stems(query_words(question)), sentence) >= ABOUT


def follows(answer: str, sentence: str, question: str) -> bool:
    """Tell whether an answer adds to the question, and enough of its words and all its numbers are in the sentence."""
    new = _stems(query_words(answer)) - _stems(normalized_words(question))
    numbers = {word for word in new if any(map(str.isdigit, word))}
    return _share(new, sentence) >= SUPPORT and numbers <= _stems(normalized_words(sentence))


def _stems(words: Iterable[str]) -> set[str]:
    """Return the first letters of words, and numbers whole."""
    return {word if any(map(str.isdigit, word)) else word[:STEM] for word in words}


def _share(stems: set[str], sentence: str) -> float:
    """Return the share of stems that are in a sentence; 0 if there are none."""
    return len(stems & _stems(normalized_words(sentence))) / max(1, len(stems))


def likelier(model: DiekaeModel, examples: Sequence[Example]) -> list[Example]:
    """Return the examples whose knowledge makes their answer likelier."""
    if not examples:
        return []
    prompter = model.need_prompter()
    prompts: list[Prompt] = [prompter.prompt(example) for example in examples]
    bare, prompted = (nll(model, prompts, way, batch_size=BATCH) for way in ("bare", "prompted"))
    gains = ((bare.total - prompted.total) / prompted.tokens).tolist()
    return [example for example, gain in zip(examples, gains, strict=True) if gain >= GAIN]
