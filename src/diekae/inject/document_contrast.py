"""Contrast between documents that were prepared apart and are used together.

Each document was read alone, so none of them knows that another one fits x better, and the slots of many unsuitable
ones take attention from the right one. So what a document gets as a whole is made to differ more. With m_d, the sum of
the exponentiated scores of the slots of document d, a query reads document d with the weight

    m_d^β / (Σ m^β)^((β − 1) / β)

in place of m_d. Their sum is the β-norm of all m: 1 is plain attention, and a large β reads one document alone. The
order of the documents does not matter, and inside a document nothing changes.

Shapes: B rows, D documents of a row, S slots of K, H query heads, G key heads, R = H / G · T queries of a key head, d
head size.
"""

from __future__ import annotations

import torch
from torch import Tensor

_SCORES = 2**24
"""Most scores to hold in fp32 at once."""


def contrast_bias(
    query: Tensor, keys: Tensor, mask: Tensor, members: Tensor, contrast: float, scale: float, cap: float | None = None
) -> Tensor:
    """Return what is added to the scores of K's slots, [B, G, R, S] in the type of the query.

    Args:
        query: [B, G, R, d].
        keys: Of K's slots, [B, G, S, d].
        mask: Added to the scores, [B, G or 1, R, S].
        members: 1 for each slot of a document, 0 elsewhere, fp32 [B, S, D].
        contrast: β.
        scale: Factor of the scores.
        cap: Largest absolute value of a score; soft, as in Gemma 2.
    """
    keys = keys.contiguous().transpose(2, 3)  # four times as fast as from a part of a larger tensor
    rows = max(1, _SCORES // max(1, query.shape[0] * query.shape[1] * keys.shape[3]))
    parts = []
    for some, hidden in zip(query.split(rows, dim=2), mask.split(rows, dim=2), strict=True):
        scores = (some @ keys).float() * scale
        scores = scores if cap is None else cap * torch.tanh(scores / cap)
        scores = scores + hidden
        # All documents of a query are compared with its largest score; a common factor of all m changes nothing.
        weights = (scores - scores.amax(-1, keepdim=True)).exp()
        logs = (weights.flatten(1, 2) @ members).clamp_min(torch.finfo(torch.float32).tiny).log()
        norm = (contrast * logs).logsumexp(-1, keepdim=True) / contrast
        bias = (contrast - 1) * (logs - norm) @ members.transpose(1, 2)
        parts.append(bias.view(scores.shape).to(query.dtype))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
