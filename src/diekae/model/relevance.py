"""Which of several documents a prompt is about: by how much each raises the likelihood that the decoder gives to it.

This is query likelihood (Ponte and Croft, 1998), less that of the bare decoder. Documents that were prepared apart know
nothing of each other. If all are read together, the unsuitable ones take attention from the right one.

Shapes: B documents, L columns of the prompt.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from diekae.knowledge import PreparedKnowledge
from diekae.model.arguments import check_input

if TYPE_CHECKING:
    from diekae.model.model import DiekaeModel

SHARE = 0.6
"""A document is relevant from this share of the best document's gain on."""
LAST = 256
"""Tokens at the prompt's end that are predicted; those before them are only read."""
_LOGITS, _COLUMNS = 2**26, 2**13
"""Most logits, and most slots and tokens of the prompt, of the documents that are tried at once."""


@torch.no_grad()
def gains(
    model: DiekaeModel, tokens: Sequence[int], documents: Sequence[PreparedKnowledge], batch_size: int = 8
) -> list[float]:
    """Return for each document log p(prompt | document) - log p(prompt), in nats; -inf if it is not a number.

    The decoder reads the prompt once behind each document, and once alone. The token behind the anchor does not count,
    because the anchor predicts it and reads no document.

    Args:
        model: Decoder and bank.
        tokens: The prompt, the documents' anchor first.
        documents: What was prepared of the documents, at least one, all after the same anchor.
        batch_size: Documents that are tried at once, at most.

    Raises:
        ValueError: The prompt exceeds the decoder's window, or does not begin with the documents' anchor.
    """
    ids = torch.tensor([list(tokens)], device=model.device)
    check_input(model.decoder, ids, {})
    predicted = min(LAST, len(tokens) - max(1, len(documents[0].anchor_ids)) - 1)
    if predicted < 1:
        return [0.0] * len(documents)
    rows = min(batch_size, max(1, _LOGITS // (predicted * model.decoder.config.get_text_config().vocab_size)))
    lengths = [len(document) + len(tokens) for document in documents]
    likelihoods = [0.0] * len(documents)
    for batch in _batches(lengths, rows):
        values = _log_likelihoods(model, ids, [documents[number] for number in batch], predicted)
        for number, value in zip(batch, values, strict=True):
            likelihoods[number] = value
    (bare,) = _log_likelihoods(model, ids, [None], predicted)
    differences = [likelihood - bare for likelihood in likelihoods]
    return [-math.inf if math.isnan(difference) else difference for difference in differences]


def relevant(model: DiekaeModel, tokens: Sequence[int], documents: Sequence[PreparedKnowledge]) -> list[int]:
    """Return the numbers of the documents that a prompt is about: those with at least :data:`SHARE` of the best gain.

    If every document lowers the likelihood, the list is empty. A single document is returned without a run. The
    arguments are those of :func:`gains`.
    """
    if len(documents) < 2:
        return list(range(len(documents)))
    all_gains = gains(model, tokens, documents)
    least = SHARE * max(all_gains)
    return [number for number, gain in enumerate(all_gains) if gain >= least >= 0]


def _batches(lengths: Sequence[int], rows: int) -> Iterator[list[int]]:
    """Yield the numbers of documents that are tried together: of similar length, because all are padded."""
    batch: list[int] = []
    for number in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) == rows or (len(batch) + 1) * lengths[number] > _COLUMNS):
            yield batch
            batch = []
        batch.append(number)
    yield batch


def _log_likelihoods(
    model: DiekaeModel, ids: Tensor, known: Sequence[PreparedKnowledge | None], predicted: int
) -> list[float]:
    """Return the log-likelihood of the last tokens of a prompt [1, L] behind each of B documents."""
    ids = ids.expand(len(known), -1)
    with model.call_context(list(known), ids, torch.ones_like(ids)):
        logits = model.decoder(input_ids=ids, logits_to_keep=predicted + 1, use_cache=False).logits
    logits = logits[:, -predicted - 1 : -1].float().transpose(1, 2)
    targets = ids[:, -predicted:].to(logits.device)
    values: list[float] = (-F.cross_entropy(logits, targets, reduction="none").double().sum(1)).tolist()
    return values
