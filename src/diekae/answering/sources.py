"""The sources of an answer: the passages that were read, with the attention that each received."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diekae.knowledge import PreparedKnowledge
from diekae.model import DiekaeModel
from diekae.store import FoundPassage, KnowledgeStore


@dataclass(frozen=True)
class Source:
    """A passage that was read for an answer."""

    id: str
    """Id of its document."""
    title: str
    """Title of its document."""
    heading: str
    """The headings above it."""
    text: str
    """The passage."""
    share: float | None
    """Its share of the attention that the answer's tokens gave to all sources, from 0 to 1; None if the bank's encoder
    is not ``attention``."""


def sources_of(
    model: DiekaeModel, store: KnowledgeStore, passages: Sequence[FoundPassage], attention: Tensor
) -> tuple[Source, ...]:
    """Return passages as sources; the arguments are those of :func:`attention_shares`."""
    shares = attention_shares(model, store, passages, attention)
    return tuple(
        Source(passage.id, passage.title, passage.heading, passage.text, share)
        for passage, share in zip(passages, shares, strict=True)
    )


def attention_shares(
    model: DiekaeModel, store: KnowledgeStore, passages: Sequence[FoundPassage], attention: Tensor
) -> list[float | None]:
    """Return each passage's share of the attention. Slots of the template's own tokens do not count.

    Args:
        model: Decoder and bank.
        store: Holds the document.
        passages: Passages of one document, in its order.
        attention: From :func:`attention_to_slots`, [S]. If it is empty, all shares are None.
    """
    if not len(attention):
        return [None] * len(passages)
    prompter, text = model.need_prompter(), store.text(passages[0].id)
    template_columns = set(prompter.columns(text, []))
    spans = [(passage.start, passage.end) for passage in passages]
    attention_of = dict(zip(prompter.columns(text, spans), attention.tolist(), strict=True))
    sums = [
        sum(attention_of[column] for column in prompter.columns(text, [span]) if column not in template_columns)
        for span in spans
    ]
    total = sum(sums)
    return [value / total for value in sums]


@torch.no_grad()
def attention_to_slots(model: DiekaeModel, ids: Tensor, length: int, prepared: PreparedKnowledge) -> Tensor:
    """Return how much attention the tokens of an answer gave to each slot, fp32 [S].

    Summed over the answer's tokens, and the mean over layers and heads. It takes one more run of the decoder over the
    question and the answer. Empty if the bank's encoder is not ``attention``.

    Args:
        model: Decoder and bank.
        ids: Tokens of the question and its answer, [1, columns].
        length: Tokens of the question.
        prepared: What was read, with S slots.
    """
    by_layer: list[Tensor] = []

    def add_layer(_layer: int, attention: Tensor) -> None:
        by_layer.append(attention[0, :, length - 1 : -1].mean(0).sum(0))

    with model.call_context(prepared, ids, watch=add_layer):
        model.decoder(input_ids=ids, logits_to_keep=1, use_cache=False)
    return torch.stack(by_layer).mean(0) if by_layer else torch.empty(0)
