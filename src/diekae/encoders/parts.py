"""Attention over slots that lie in several places, read where they lie: never joined, never copied.

Attention over two sets of slots is a mean of what it finds in each, weighed by how much each says to the query:

    A(q; 1, 2) = A₁ + σ(L₂ − L₁) (A₂ − A₁),    L = log Σ exp(scores)

(Dao et al., 2022, section 3.1, for blocks). So the memory of K, which every generated token asks, is not copied behind
each of them. Gradients need what PyTorch's kernels do not give back (that of L): with them the parts are joined.

Shapes: b rows, H query heads, G key heads, S slots, T queries, r head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Part(NamedTuple):
    """Slots of one place."""

    keys: Tensor
    """[b, H, S, r], in any strides."""
    values: Tensor
    """[b, H, S, r]."""
    mask: Tensor | None = None
    """Added to the scores, [b or 1, 1, T or 1, S]; from :func:`added`. None where all are visible."""
    causal: bool = False
    """Whether query t sees slots 0 … t alone; T is then S, and there is no mask."""


class Found(NamedTuple):
    """What attention found in one part."""

    answer: Tensor
    """[b, H, T, r]."""
    weight: Tensor
    """L, the logarithm of the sum of exponentiated scores, fp32 [b, H, T, 1]."""


def added(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what is added to scores: 0 where a slot is visible, the least finite number elsewhere.

    Finite, so that a row that sees nothing has a weight of nothing and no NaN.
    """
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, torch.finfo(dtype).min)


def repeat_rows(mask: Tensor, rows: int) -> Tensor:
    """Return a mask of B rows [B, 1, …] for n · B of them; one row stands for all."""
    return mask if len(mask) in (1, rows) else mask.repeat(rows // len(mask), 1, 1, 1)


def ask(query: Tensor, part: Part, scale: float | None = None) -> Found:
    """Ask one part with query [b, H, T, r]; no gradient is kept of the weight on a CPU.

    Args:
        query: What is asked.
        part: What is known.
        scale: Of the scores; 1/√r if None.
    """
    if _has_kernel(query, part):
        # The kernel behind `scaled_dot_product_attention`, which keeps the second result to itself.
        answer, weight = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, part.keys, part.values, 0.0, part.causal, attn_mask=part.mask, scale=scale
        )
        return Found(answer, weight[..., None])
    scores = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ part.keys.transpose(-1, -2)
    mask = _mask(part, query.shape[2], scores.dtype)
    scores = (scores if mask is None else scores + mask).float()
    weight = scores.logsumexp(-1, keepdim=True)
    return Found((scores - weight).exp().to(query.dtype) @ part.values, weight)


def _has_kernel(query: Tensor, part: Part) -> bool:
    """Tell whether the CPU's kernel takes these tensors; called past PyTorch's own checks, it crashes on others."""
    tensors = (query, part.keys, part.values)
    return not torch.is_grad_enabled() and all(
        tensor.device.type == "cpu" and tensor.dtype == query.dtype and tensor.stride(-1) == 1 and tensor.numel() > 0
        for tensor in tensors
    )


def attend(query: Tensor, parts: Sequence[Part], scale: float | None = None) -> Tensor:
    """Return what query [b, H, T, r] finds in all parts together, [b, H, T, r]."""
    if len(parts) == 1 or torch.is_grad_enabled():
        one = parts[0] if len(parts) == 1 else join(parts, query.shape[2])
        return F.scaled_dot_product_attention(
            query, one.keys, one.values, attn_mask=one.mask, is_causal=one.causal, scale=scale
        )
    answer, weight = ask(query, parts[0], scale)
    for number, part in enumerate(parts[1:], 2):
        other = ask(query, part, scale)
        share = (other.weight - weight).sigmoid().to(answer.dtype)
        answer = torch.lerp(answer, other.answer, share)
        if number < len(parts):
            weight = torch.logaddexp(weight, other.weight)
    return answer


def join(parts: Sequence[Part], queries: int) -> Part:
    """Return several parts as one, copied behind each other."""
    dtype, rows = parts[0].keys.dtype, len(parts[0].keys)
    masks = []
    for part in parts:
        mask = _mask(part, queries, dtype)
        slots = part.keys.shape[2]
        masks.append(part.keys.new_zeros(()).expand(rows, 1, queries, slots) if mask is None else mask)
    wide = [mask.expand(rows, 1, queries, -1) for mask in masks]
    keys, values = (torch.cat([part[place] for part in parts], dim=2) for place in (0, 1))  # type: ignore[misc]
    return Part(keys, values, torch.cat(wide, dim=-1))


def _mask(part: Part, queries: int, dtype: torch.dtype) -> Tensor | None:
    """Return a part's mask, also where it is causal."""
    if not part.causal:
        return part.mask
    return added(torch.ones(queries, queries, dtype=torch.bool, device=part.keys.device).tril(), dtype)[None, None]


def fold(query: Tensor, groups: int) -> Tensor:
    """Return query [n, B, T, H, r] as [n · B, G, H/G · T, r]: heads that share keys ask as one; no key is repeated."""
    share = query.shape[3] // groups
    apart: Tensor = query.unflatten(3, (groups, share))
    return apart.permute(0, 1, 3, 4, 2, 5).flatten(3, 4).flatten(0, 1)


def unfold(answer: Tensor, count: int, rows: int, length: int) -> Tensor:
    """Return an answer [n · B, G, H/G · T, r] to a folded query as [n, B, T, H · r]."""
    apart: Tensor = answer.unflatten(2, (-1, length)).unflatten(0, (count, rows))
    return apart.permute(0, 1, 4, 2, 3, 5).flatten(3)
