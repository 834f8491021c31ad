"""A reader's start from the decoder's own attention: reduced to few dimensions, without positions, from its weights.

In D(K, x) the attention of layer l already asks K with x. Its query, key, value and output projections, read without
positions, are therefore a reader that knows what to ask before its first step. Two reductions make it small:

- positions: a rotary score q·R(Δ)k becomes its mean over distances, q·E[R]k, so that what turns fast within K fades;
- rank: query and key only meet in a product, value and output too, so each product is cut to its best rank r, weighed
  by how the inputs are distributed.

Shapes: W decoder width, H query heads, G key heads, h head size, r reduced head size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class AttentionWeights:
    """The attention of one decoder block, as far as a start needs it. Biases are left out."""

    norm: Tensor
    """Gain of the norm before it, [W]."""
    query: Tensor
    """[H, h, W], scaled so that the score is a bare product."""
    key: Tensor
    """[G, h, W], turned by the mean rotation."""
    value: Tensor
    """[G, h, W]."""
    output: Tensor
    """[H, W, h]."""


@dataclass(frozen=True)
class ReducedAttention:
    """The same in r dimensions a head."""

    query: Tensor
    """[H, r, W], for a score that is divided by √r."""
    key: Tensor
    """[G, r, W]."""
    value: Tensor
    """[G, r, W]."""
    output: Tensor
    """[H, W, r]."""


def reduce_attention(weights: AttentionWeights, size: int, known: Tensor, seen: Tensor) -> ReducedAttention:
    """Cut every head to r dimensions, exactly where r is the head size.

    Args:
        weights: The decoder's.
        size: r.
        known: What keys and values are made of, normed states at K, [rows, W].
        seen: What queries are made of, normed states at x, [rows, W].
    """
    share = weights.query.shape[0] // weights.key.shape[0]
    known_root, seen_root = _root(known), _root(seen)
    queries, keys, values, outputs = [], [], [], []
    for group, (key, value) in enumerate(zip(weights.key.float(), weights.value.float(), strict=True)):
        heads = slice(group * share, (group + 1) * share)
        asked = weights.query[heads].float().transpose(1, 2)  # [share, W, h]
        left, right = _cut((seen_root @ asked).flatten(0, 1), key @ known_root, size)
        queries += list(_solve(seen_root, left.unflatten(0, (share, -1))).transpose(1, 2) * math.sqrt(size))
        keys.append(_solve(known_root, right.T).T)
        left, right = _cut(weights.output[heads].float().flatten(0, 1), value @ known_root, size)
        outputs += list(left.unflatten(0, (share, -1)))
        values.append(_solve(known_root, right.T).T)
    return ReducedAttention(torch.stack(queries), torch.stack(keys), torch.stack(values), torch.stack(outputs))


def mean_rotation(keys: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn keys by the mean of the rotations that lie between them and later queries.

    Args:
        keys: Key projection, [G, h, W], its first dimensions rotary in halves (GPT-NeoX's layout).
        cos: Cosines at distances 1, 2, …, [distances, rotary dimensions].
        sin: Sines there.
    """
    rotary = cos.shape[-1]
    turned, rest = keys[:, :rotary], keys[:, rotary:]
    first, second = turned.chunk(2, dim=1)
    crossed = torch.cat([-second, first], dim=1)
    turned = turned * cos.mean(0)[None, :, None] - crossed * sin.mean(0)[None, :, None]
    return torch.cat([turned, rest], dim=1)


def _root(rows: Tensor) -> Tensor:
    """Return the symmetric root of the second moment of rows [n, W], kept away from singularity; [W, W]."""
    moment = rows.float().T @ rows.float() / len(rows)
    moment += 1e-2 * moment.diagonal().mean() * torch.eye(len(moment), device=moment.device)
    values, vectors = torch.linalg.eigh(moment)
    root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return root


def _solve(root: Tensor, columns: Tensor) -> Tensor:
    """Return root⁻¹ columns."""
    solved: Tensor = torch.linalg.solve(root, columns)
    return solved


def _cut(left: Tensor, right: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the best factors of rank ``size`` of left [m, h] @ right [h, n]: [m, size] and [size, n]."""
    q_left, r_left = torch.linalg.qr(left)
    q_right, r_right = torch.linalg.qr(right.T)
    u, s, v = torch.linalg.svd(r_left @ r_right.T)
    root = s[:size].sqrt()
    return (q_left @ u[:, :size]) * root, root[:, None] * (v[:size] @ q_right.T)
