"""Answer a question from a store of documents, with the sources; or say that the documents do not answer it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, TextStreamer

from diekae.answering.confidence import Confidence
from diekae.answering.sources import Source, attention_to_slots, sources_of
from diekae.data.formats import Message
from diekae.knowledge import Knowledge
from diekae.model import DiekaeModel
from diekae.model.generation import generate_texts
from diekae.store import FoundPassage, KnowledgeStore

PASSAGES = 2
"""Passages that are read. More confused decoders of 135M and 0.5B parameters on the development questions."""
CANDIDATES = 64
"""Best passages of the store among which :func:`pick` chooses those of one document."""


@dataclass(frozen=True)
class Answer:
    """An answer, with its sources and how probable it is that they answer the question."""

    question: str
    """The question."""
    text: str
    """The answer from the documents; empty if there are none."""
    answered: bool
    """Whether the documents answer the question: whether `confidence` reaches the threshold."""
    confidence: float
    """Probability that the documents answer the question, calibrated on other questions; from 0 to 1."""
    bare: str | None
    """The decoder's answer without documents; None, because not generated, if the documents answer the question."""
    sources: tuple[Source, ...]
    """The passages that were read, in the order of their document."""
    seconds: float
    """Seconds from the question to the end of the answer."""

    def __str__(self) -> str:
        """Return the answer as a user should read it."""
        if self.answered:
            return self.text
        return f"Not in your documents. Without them: {self.bare}" if self.bare else "Not in your documents."


def ask(
    model: DiekaeModel,
    question: str,
    store: KnowledgeStore,
    *,
    history: Sequence[Message] = (),
    documents: Sequence[str] = (),
    passages: int = PASSAGES,
    max_new_tokens: int = 64,
    threshold: float | None = None,
    show: Callable[[str], None] | None = None,
) -> Answer:
    """Answer a question from a store's documents.

    Args:
        model: Decoder and bank.
        question: The question.
        store: The documents, prepared by the same model.
        history: Earlier turns of the chat, the last of them the assistant's. The search also uses the user's previous
            question. The decoder reads the documents before all turns. Needs the format ``chat``.
        documents: Search only these: ids, files or titles, as for :meth:`KnowledgeStore.remove`. All if empty.
        passages: Most passages to read.
        max_new_tokens: Most tokens of the answer.
        threshold: Least confidence at which the question counts as answered; the one that was fitted if None.
        show: Called with each piece of the answer's text as it is generated, if the question counts as answered.

    Raises:
        ValueError: The question is blank, or no document has one of the names.
    """
    start = time.perf_counter()
    ids = _question_ids(model, question, history)
    found = pick(store, search_text(question, history), passages, documents)
    if not found:
        bare = _generate(model, ids, None, max_new_tokens)[0]
        return Answer(question, "", False, 0.0, bare, (), time.perf_counter() - start)
    prepared = store.read(found)
    confidence = Confidence(model, question, found, threshold)
    with confidence.listening(ids, prepared):
        text, answer_ids = _generate(model, ids, prepared, max_new_tokens, show=show and confidence.gate(show))
    seconds = time.perf_counter() - start
    attention = attention_to_slots(model, answer_ids, ids.shape[1], prepared)
    return Answer(
        question=question,
        text=text,
        answered=confidence.answered,
        confidence=confidence.value,
        bare=None if confidence.answered else _generate(model, ids, None, max_new_tokens)[0],
        sources=sources_of(model, store, found, attention),
        seconds=seconds,
    )


def pick(
    store: KnowledgeStore, query: str, passages: int = PASSAGES, documents: Sequence[str] = ()
) -> list[FoundPassage]:
    """Return the best passages of the document that has the best one, in the order of the document.

    Args:
        store: The documents.
        query: The question.
        passages: Most passages to return.
        documents: Search only these, as for :func:`ask`.
    """
    candidates = store.search(query, CANDIDATES, documents=documents)
    same_document = [passage for passage in candidates if passage.id == candidates[0].id]
    return sorted(same_document[:passages], key=lambda passage: passage.start)


def search_text(question: str, history: Sequence[Message]) -> str:
    """Return the text to search for. A follow-up question often omits its subject, so the one before it is added."""
    earlier = [turn["content"] for turn in history if turn["role"] == "user"]
    return f"{earlier[-1]} {question} {question}" if earlier else question


def reply(
    model: DiekaeModel,
    question: str,
    knowledge: Knowledge = None,
    format: str | None = None,
    max_new_tokens: int = 64,
) -> str:
    """Answer a question greedily, with knowledge or without; ``format`` is the model's own if None."""
    ids = model.tokenize(question, format)["input_ids"]
    return _generate(model, ids, knowledge, max_new_tokens, format)[0]


def _question_ids(model: DiekaeModel, question: str, history: Sequence[Message]) -> Tensor:
    """Return the tokens of the question after the earlier turns, [1, columns]."""
    if not history:
        ids: Tensor = model.tokenize(question)["input_ids"]
        return ids
    anchor, rest = model.need_prompter().chat([*history, {"role": "user", "content": question}])
    return torch.tensor([anchor + rest], device=model.device)


def _generate(
    model: DiekaeModel,
    ids: Tensor,
    knowledge: Knowledge,
    max_new_tokens: int,
    format: str | None = None,
    show: Callable[[str], None] | None = None,
) -> tuple[str, Tensor]:
    """Answer greedily; return the answer, and the tokens of question and answer, [1, columns]."""
    one_line = (format or model.config.format) != "chat"  # in the other formats an answer is one line
    options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "min_new_tokens": 1}  # an answer is never empty
    if show is not None:
        options["streamer"] = AnswerStreamer(model.need_prompter().tokenizer, show, one_line)
    (text,), answer_ids = generate_texts(model, ids, torch.ones_like(ids), knowledge, **options)
    return (text.partition("\n")[0].rstrip() if one_line else text), answer_ids


class AnswerStreamer(TextStreamer):
    """Passes an answer on while it is generated: whole words, without leading and trailing blanks."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, show: Callable[[str], None], one_line: bool) -> None:
        """Pass new text to `show`, which is never called with an empty text; only the first line if `one_line`."""
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.show, self.one_line = show, one_line
        self._text, self._shown = "", 0

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:  # noqa: ARG002 - Transformers' signature
        """Take more text."""
        self._text = (self._text + text).lstrip()
        sure = (self._text.partition("\n")[0] if self.one_line else self._text).rstrip()
        if len(sure) > self._shown:
            self.show(sure[self._shown :])
            self._shown = len(sure)
