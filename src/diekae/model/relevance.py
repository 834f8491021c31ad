"""Which of several documents a prompt is about: by how much each raises the likelihood that the decoder gives to it.

This is query likelihood (Ponte and Croft, 1998), less that of the bare decoder. Documents that were prepared apart know
nothing of each other. If all are read together, the unsuitable ones take attention from the right one.

Shapes: B rows, L columns of the prompt, T columns whose tokens are predicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from diekae.knowledge import PreparedKnowledge

if TYPE_CHECKING:
    from diekae.model.model import DiekaeModel

SHARE = 0.6
"""A document is relevant from this share of the best document's gain on."""
LAST = 256
"""Tokens at the prompt's end that are predicted; those before them are only read."""
_LOGITS = 2**26
"""Most logits to hold at once."""


@torch.no_grad()
def gains(
    model: DiekaeModel, tokens: Sequence[int], documents: Sequence[PreparedKnowledge], batch_size: int = 8
) -> list[float]:
    """Return for each document log p(prompt | document) - log p(prompt), in nats.

    The decoder reads the prompt once behind each document, and once alone.

    Args:
        model: Decoder and bank.
        tokens: The prompt, the documents' anchor first.
        documents: What was prepared of the documents.
        batch_size: Documents that are tried at once, at most.
    """
    predicted = min(LAST, len(tokens) - len(model.anchors_of([tuple(tokens)])[0]) - 1)
    if predicted < 1:  # the anchor predicts the token behind it, and reads no document
        return [0.0] * len(documents)
    rows = min(batch_size, max(1, _LOGITS // (predicted * model.decoder.config.get_text_config().vocab_size)))
    tried: list[PreparedKnowledge | None] = [None, *documents]
    likelihoods = torch.cat(
        [
            _log_likelihoods(model, tokens, tried[start : start + rows], predicted)
            for start in range(0, len(tried), rows)
        ]
    )
    return (likelihoods[1:] - likelihoods[0]).tolist()


def relevant(model: DiekaeModel, tokens: Sequence[int], documents: Sequence[PreparedKnowledge]) -> list[int]:
    """Return the numbers of the documents that a prompt is about: those with at least :data:`SHARE` of the best gain.

    If no document raises the likelihood, the one that lowers it least is returned. The arguments are those of
    :func:`gains`.
    """
    if len(documents) < 2:
        return list(range(len(documents)))
    all_gains = gains(model, tokens, documents)
    best = max(all_gains)
    least = SHARE * best if best > 0 else best
    return [number for number, gain in enumerate(all_gains) if gain >= least]


def _log_likelihoods(
    model: DiekaeModel, tokens: Sequence[int], known: Sequence[PreparedKnowledge | None], predicted: int
) -> Tensor:
    """Return the log-likelihood of the last tokens of a prompt behind each of B documents, fp64 [B]."""
    ids = torch.tensor([list(tokens)] * len(known), device=model.device)
    with model.call_context(list(known), ids, torch.ones_like(ids)):
        logits = model.decoder(input_ids=ids, logits_to_keep=predicted + 1, use_cache=False).logits
    logits = logits[:, -predicted - 1 : -1].float().transpose(1, 2)
    targets = ids[:, -predicted:].to(logits.device)
    return -F.cross_entropy(logits, targets, reduction="none").double().sum(1).cpu()
