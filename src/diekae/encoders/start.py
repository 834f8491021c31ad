"""An encoder's start from the decoder's own attention: its weights, its rotary angles, cut to fewer dimensions a head.

Two cuts make it small, and neither is needed where r is the head size:

- query and key meet pair by pair of rotary dimensions, so each head keeps the pairs that carry most of the score;
- value and output meet in a product, which is cut to its best rank r, weighed by how the inputs are distributed.

Shapes: W decoder width, H query heads, G key heads, h head size, r reduced head size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class AttentionWeights:
    """The attention of one decoder block, as far as a start needs it.

    Biases of values and of the output are the same with K and without, so they are left out.
    """

    norm: Tensor
    """Gain of the norm before it, [W]."""
    query: Tensor
    """[H, h, W], scaled so that the score is a bare product."""
    key: Tensor
    """[G, h, W]."""
    value: Tensor
    """[G, h, W]."""
    output: Tensor
    """[H, W, h]."""
    frequencies: Tensor
    """Radians a token by which dimensions i and i + h/2 of queries and keys are turned, [h/2]; 0 where they are not."""
    query_bias: Tensor | None = None
    """[H, h], scaled as the query; None where there is none."""
    key_bias: Tensor | None = None
    """[G, h]."""
    query_norm: Tensor | None = None
    """Gain of a norm of each head's query, [h], which then bears the scale; None where there is none."""
    key_norm: Tensor | None = None
    """[h]."""


@dataclass(frozen=True)
class ReducedAttention:
    """The same in r dimensions a head; dimensions i and i + r/2 are turned together."""

    query: Tensor
    """[H, r, W], for a score that is a bare product."""
    key: Tensor
    """[G, r, W]."""
    value: Tensor
    """[G, r, W]."""
    output: Tensor
    """[H, W, r]."""
    frequencies: Tensor
    """[G, r/2]."""
    query_bias: Tensor
    """[H, r]."""
    key_bias: Tensor
    """[G, r]."""


def reduce_attention(weights: AttentionWeights, size: int, known: Tensor, seen: Tensor) -> ReducedAttention:
    """Cut every head to r dimensions, exactly where r is the head size.

    Args:
        weights: The decoder's.
        size: r, even.
        known: What keys and values are made of, normed states at K, [rows, W].
        seen: What queries are made of, normed states at x, [rows, W].
    """
    heads, whole = weights.query.shape[:2]
    groups = len(weights.key)
    share, half = heads // groups, whole // 2
    known_root = _root(known)
    shift = _or_zeros(weights.query_bias, weights.query), _or_zeros(weights.key_bias, weights.key)
    queries, keys, values, outputs, frequencies, shifts = [], [], [], [], [], []
    for group in range(groups):
        mine = slice(group * share, (group + 1) * share)
        query, key = weights.query[mine].float(), weights.key[group].float()
        asked = (
            (query @ seen.float().T + shift[0][mine, :, None]).square().mean(-1).unflatten(-1, (2, half)).sum((0, 1))
        )
        held = (key @ known.float().T + shift[1][group, :, None]).square().mean(-1).unflatten(-1, (2, half)).sum(0)
        pairs = (asked * held).topk(size // 2).indices.sort().values
        kept = torch.cat([pairs, pairs + half])
        queries.append(query[:, kept])
        keys.append(key[kept])
        frequencies.append(weights.frequencies[pairs])
        shifts.append((shift[0][mine][:, kept], shift[1][group][kept]))
        left, right = _cut(weights.output[mine].float().flatten(0, 1), weights.value[group].float() @ known_root, size)
        outputs.append(left.unflatten(0, (share, -1)))
        values.append(_solve(known_root, right.T).T)
    return ReducedAttention(
        torch.cat(queries),
        torch.stack(keys),
        torch.stack(values),
        torch.cat(outputs),
        torch.stack(frequencies),
        torch.cat([query for query, _ in shifts]),
        torch.stack([key for _, key in shifts]),
    )


def _or_zeros(bias: Tensor | None, weight: Tensor) -> Tensor:
    """Return a bias [heads, h] of weights [heads, h, W], zeros if there is none."""
    return weight.new_zeros(weight.shape[:2]).float() if bias is None else bias.float()


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
