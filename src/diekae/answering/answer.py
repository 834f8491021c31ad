"""A question, a store of documents, an answer with its sources; or the word that they do not answer it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diekae.answering.confidence import THRESHOLD, confidence_of
from diekae.data.prompt import Message
from diekae.knowledge import Knowledge, PreparedKnowledge
from diekae.model import DiekaeModel
from diekae.store import Found, KnowledgeStore

PASSAGES = 2
"""Passages that are read. Chosen on development questions, with 135M and 0.5B parameters: more confuses them."""
_LOOKED_AT = 64
"""Best passages among which those of one document are looked for."""


@dataclass(frozen=True)
class Source:
    """A passage that was read."""

    id: str
    """Its document's id."""
    title: str
    """Its document's title."""
    heading: str
    """The headings above it."""
    text: str
    """Its words."""
    share: float | None
    """Of the attention that the answer's tokens gave to all that was read, the part that went here, from 0 to 1; None
    where the bank's encoders are not read by the decoder's attention."""


@dataclass(frozen=True)
class Answer:
    """What was answered, and why it may be believed."""

    question: str
    """What was asked."""
    text: str
    """The answer with the documents read; empty where there are none."""
    answered: bool
    """Whether the documents answer: whether ``confidence`` reaches the threshold."""
    confidence: float
    """Probability that the documents answer this question, calibrated on others; from 0 to 1."""
    bare: str | None
    """What the decoder says without documents; None where it was not asked, because they answer."""
    sources: tuple[Source, ...]
    """What was read, in the order of the document."""
    seconds: float
    """From the question to the end of the answer."""

    def __str__(self) -> str:
        """Return what a reader should be told."""
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
    threshold: float = THRESHOLD,
) -> Answer:
    """Answer a question from a store's documents.

    Args:
        model: Decoder and bank.
        question: What is asked.
        store: The documents, prepared by the same model.
        history: Turns of the chat before, the last of them the assistant's; the documents are searched with the last
            question of the user too, and stand before all turns. Needs the format ``chat``.
        documents: Look only into these: ids, files or titles, as for :meth:`KnowledgeStore.remove`. All if empty.
        passages: How many are read.
        max_new_tokens: Longest answer, in tokens.
        threshold: Least confidence that counts as answered.

    Raises:
        ValueError: The question is blank, or no document has one of the names.
    """
    began = time.perf_counter()
    ids = _tokens(model, question, history)
    found = pick(store, searched(question, history), passages, documents)
    if not found:
        bare = _generate(model, ids, None, max_new_tokens)[0]
        return Answer(question, "", False, 0.0, bare, (), time.perf_counter() - began)
    prepared = store.read(found)
    text, made = _generate(model, ids, prepared, max_new_tokens)
    seconds = time.perf_counter() - began
    confidence = confidence_of(found)
    answered = confidence >= threshold
    return Answer(
        question,
        text,
        answered,
        confidence,
        None if answered else _generate(model, ids, None, max_new_tokens)[0],
        _sources(model, store, found, attention_given(model, made, ids.shape[1], prepared)),
        seconds,
    )


def pick(store: KnowledgeStore, query: str, passages: int = PASSAGES, documents: Sequence[str] = ()) -> list[Found]:
    """Return the best passages of the document with the best one, in their order there."""
    found = store.search(query, _LOOKED_AT, documents=documents)
    own = [one for one in found if one.id == found[0].id][:passages]
    return sorted(own, key=lambda one: one.start)


def searched(question: str, history: Sequence[Message]) -> str:
    """Return what to search with: a question that follows another often leaves out what it is about."""
    before = [turn["content"] for turn in history if turn["role"] == "user"]
    return f"{before[-1]} {question} {question}" if before else question


def _tokens(model: DiekaeModel, question: str, history: Sequence[Message]) -> Tensor:
    """Return the tokens of a question behind the turns before it, [1, columns]."""
    if not history:
        ids: Tensor = model.tokenize(question)["input_ids"]
        return ids
    anchor, rest = model.need_prompter().chat([*history, {"role": "user", "content": question}])
    return torch.tensor([anchor + rest], device=model.device)


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


def _generate(
    model: DiekaeModel, ids: Tensor, knowledge: Knowledge, most: int, format: str | None = None
) -> tuple[str, Tensor]:
    """Answer greedily; return the answer, and the tokens of question and answer."""
    tokenizer = model.need_prompter().tokenizer
    # An end at once is no answer.
    options: dict[str, Any] = {"max_new_tokens": most, "min_new_tokens": 1, "do_sample": False}
    options |= {"attention_mask": torch.ones_like(ids), "pad_token_id": tokenizer.pad_token_id}
    made = model.generate(ids, knowledge=knowledge, **options)
    text = str(tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)).strip()
    if (format or model.config.format) != "chat":  # a line is an answer there
        text = text.split("\n")[0]
    return text, made


@torch.no_grad()
def attention_given(model: DiekaeModel, ids: Tensor, length: int, prepared: PreparedKnowledge) -> Tensor:
    """Return how much attention the tokens of an answer gave to each of K's slots, summed, fp32 [S].

    The mean over layers and heads, in one more run over question and answer. Empty where the bank's encoders are not
    read by the decoder's attention.

    Args:
        model: Decoder and bank.
        ids: Tokens of the question and its answer, [1, columns].
        length: Tokens of the question.
        prepared: K, as it was read.
    """
    kept: list[Tensor] = []

    def watch(_number: int, given: Tensor) -> None:
        kept.append(given[0, :, length - 1 : -1].mean(0).sum(0))

    with model.behind(prepared, ids, watch=watch):
        model.decoder(input_ids=ids, logits_to_keep=1, use_cache=False)
    return torch.stack(kept).mean(0) if kept else torch.empty(0)


def _sources(model: DiekaeModel, store: KnowledgeStore, found: Sequence[Found], given: Tensor) -> tuple[Source, ...]:
    """Return what was read, with each passage's share of the attention that was given to slots, [S]."""
    shares = shares_of(model, store, found, given)
    return tuple(
        Source(one.id, one.title, one.heading, one.text, share) for one, share in zip(found, shares, strict=True)
    )


def shares_of(model: DiekaeModel, store: KnowledgeStore, found: Sequence[Found], given: Tensor) -> list[float | None]:
    """Return the share of attention of each passage of one document.

    Args:
        model: Decoder and bank.
        store: Holds the document.
        found: The passages that were read.
        given: The attention that each of their slots received, [S]; empty where it is not known, and so are the shares.
    """
    if not len(given):
        return [None] * len(found)
    prompter, text = model.need_prompter(), store.text(found[0].id)
    frame = set(prompter.columns(text, []))
    read = prompter.columns(text, [(one.start, one.end) for one in found])
    weight = dict(zip(read, given.tolist(), strict=True))
    sums = [
        sum(weight[column] for column in prompter.columns(text, [(one.start, one.end)]) if column not in frame)
        for one in found
    ]
    total = sum(sums)
    return [value / total for value in sums]
