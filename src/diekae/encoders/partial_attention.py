"""Attention over slots that are held in several tensors, without joining them into one.

Each part is attended to on its own, and the results are merged by the log-sum of their scores (Dao et al., 2022,
section 3.1, for blocks):

    A(q; 1, 2) = A₁ + σ(L₂ − L₁) (A₂ − A₁),    L = log Σ exp(scores)

So the slots of K, which every generated token reads, are not copied together with each of them. PyTorch's kernels give
no gradient for L. Where gradients are needed, the parts are joined instead.

Shapes: b rows, H query heads, G key heads, S slots, T queries, r head size.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Part(NamedTuple):
    """Keys and values of some slots."""

    keys: Tensor
    """[b, H, S, r], in any strides."""
    values: Tensor
    """[b, H, S, r]."""
    mask: Tensor | None = None
    """Added to the scores, [b or 1, 1, T or 1, S]; see :func:`additive_mask`. None where all slots are visible."""
    causal: bool = False
    """Whether query t sees slots 0 … t alone; T is then S, and there is no mask."""


class AttendedPart(NamedTuple):
    """The attention over one part."""

    output: Tensor
    """[b, H, T, r]."""
    log_sum: Tensor
    """L, the logarithm of the sum of exponentiated scores, fp32 [b, H, T, 1]."""


def additive_mask(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a mask that is added to scores: 0 where a slot is visible, the type's least finite number elsewhere.

    The number is finite, so that a row that sees no slot has a weight of zero and no NaN. A mask that is not bool is
    returned unchanged.
    """
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)


def repeat_rows(mask: Tensor, rows: int) -> Tensor:
    """Repeat a mask of B rows [B, 1, …] for n · B rows; a mask of one row is left to broadcast."""
    return mask if len(mask) in (1, rows) else mask.repeat(rows // len(mask), 1, 1, 1)


def attend_part(query: Tensor, part: Part, scale: float | None = None) -> AttendedPart:
    """Attend from query [b, H, T, r] to one part; the scores' factor is 1/√r by default.

    On a CPU no gradient is kept of the log-sum.
    """
    if _has_kernel(query, part):
        # The kernel behind `scaled_dot_product_attention`, which does not return the log-sum.
        output, log_sum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, part.keys, part.values, 0.0, part.causal, attn_mask=part.mask, scale=scale
        )
        return AttendedPart(output, log_sum[..., None])
    scores = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ part.keys.transpose(-1, -2)
    mask = _mask_of(part, query.shape[2], scores.dtype)
    scores = (scores if mask is None else scores + mask).float()
    log_sum = scores.logsumexp(-1, keepdim=True)
    return AttendedPart((scores - log_sum).exp().to(query.dtype) @ part.values, log_sum)


def _has_kernel(query: Tensor, part: Part) -> bool:
    """Tell whether the CPU's kernel takes these tensors; called directly, it checks nothing and crashes on others."""
    tensors = (query, part.keys, part.values)
    return not torch.is_grad_enabled() and all(
        tensor.device.type == "cpu" and tensor.dtype == query.dtype and tensor.stride(-1) == 1 and tensor.numel() > 0
        for tensor in tensors
    )


def attend(query: Tensor, parts: Sequence[Part], scale: float | None = None) -> Tensor:
    """Return the attention of query [b, H, T, r] over the slots of all parts, [b, H, T, r]."""
    if len(parts) == 1 or torch.is_grad_enabled():
        joined = parts[0] if len(parts) == 1 else join(parts, query.shape[2])
        return F.scaled_dot_product_attention(
            query, joined.keys, joined.values, attn_mask=joined.mask, is_causal=joined.causal, scale=scale
        )
    output, log_sum = attend_part(query, parts[0], scale)
    for number, part in enumerate(parts[1:], 2):
        other = attend_part(query, part, scale)
        share = (other.log_sum - log_sum).sigmoid().to(output.dtype)
        output = torch.lerp(output, other.output, share)
        if number < len(parts):
            log_sum = torch.logaddexp(log_sum, other.log_sum)
    return output


def join(parts: Sequence[Part], queries: int) -> Part:
    """Copy several parts into one, in their order."""
    dtype, rows = parts[0].keys.dtype, len(parts[0].keys)
    masks = []
    for part in parts:
        mask = _mask_of(part, queries, dtype)
        if mask is None:
            mask = part.keys.new_zeros(())
        masks.append(mask.expand(rows, 1, queries, part.keys.shape[2]))
    keys = torch.cat([part.keys for part in parts], dim=2)
    values = torch.cat([part.values for part in parts], dim=2)
    return Part(keys, values, torch.cat(masks, dim=-1))


def _mask_of(part: Part, queries: int, dtype: torch.dtype) -> Tensor | None:
    """Return the additive mask of a part; of a causal part it is made here."""
    if not part.causal:
        return part.mask
    lower = torch.ones(queries, queries, dtype=torch.bool, device=part.keys.device).tril()
    return additive_mask(lower, dtype)[None, None]


def fold_heads(query: Tensor, groups: int) -> Tensor:
    """Return query [n, B, T, H, r] as [n · B, G, H/G · T, r].

    Heads that share keys become one head with more queries, so that no key is repeated.
    """
    share = query.shape[3] // groups
    grouped: Tensor = query.unflatten(3, (groups, share))
    return grouped.permute(0, 1, 3, 4, 2, 5).flatten(3, 4).flatten(0, 1)


def unfold_heads(output: Tensor, count: int, rows: int, length: int) -> Tensor:
    """Return the attention [n · B, G, H/G · T, r] of a folded query as [n, B, T, H · r]."""
    grouped: Tensor = output.unflatten(2, (-1, length)).unflatten(0, (count, rows))
    return grouped.permute(0, 1, 4, 2, 3, 5).flatten(3)
