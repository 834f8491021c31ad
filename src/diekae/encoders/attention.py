"""The decoder's own attention, told to see K's slots besides x's own keys: what D(K, x) computes there.

In the bank's layers the attention of x sees keys and values of anchor and K. That adds, at the attention's output,

    A(q; anchor, K, x) − A(q; anchor, x),

the difference that reading K makes there (design, section 3). In all layers, untrained, the logits are those of
D(K, x). What is trained stands in for layers that are left out: a change of K's keys and values, which starts at zero,
and a gated MLP on each attention's answer.

Shapes: N encoders, B rows, S slots, T positions of x, W decoder width, H query heads, G key heads, d dimensions of a
key, e dimensions of a value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from diekae.encoders.base import Encoder, GroupedLinear, GroupedRMSNorm, register

Turn = Callable[[int, Tensor], Tensor]
"""Turns keys [B, S, G, d] of encoder number n to their positions."""


@dataclass(frozen=True)
class AttentionOptions:
    """Sizes of the ``attention`` encoder; those that are None are the decoder's own."""

    heads: int | None = None
    """H, query heads."""
    kv_heads: int | None = None
    """G, heads of keys and values."""
    key_size: int | None = None
    """d, dimensions of a key."""
    value_size: int | None = None
    """e, dimensions of a value."""
    rank: int | None = None
    """Rank of the trained change of K's keys and values; None is a full matrix, 0 keeps the decoder's own."""
    mlp_width: int = 64
    """Width of the gated MLP on each attention's answer; 0 for none."""
    sharpness: float = 1.2
    """Factor of K's keys where several documents that were read apart are used together. They all end where x begins,
    so the right one has many rivals: scores must differ more (as in adaptive parallel encoding, Yang et al., 2025)."""

    def __post_init__(self) -> None:
        """Check the sizes.

        Raises:
            ValueError: A size is not positive, or heads do not divide each other.
        """
        sizes = (self.heads, self.kv_heads, self.key_size, self.value_size)
        positive = all(size is None or size > 0 for size in sizes) and min(self.rank or 0, self.mlp_width) >= 0
        positive = positive and self.sharpness > 0
        if not positive or (self.heads and self.kv_heads and self.heads % self.kv_heads):
            raise ValueError(f"attention sizes must be positive and kv_heads must divide heads, got {self}.")


@register("attention")
class Attention(Encoder):
    """What K's slots are in N layers, and a small gated MLP behind each attention."""

    reads = "attention"
    options = AttentionOptions

    def __init__(self, count: int, embedding_width: int, width: int, options: AttentionOptions) -> None:
        """Build N encoders that change nothing yet; sizes that are None must have been settled."""
        super().__init__(count, embedding_width, width)
        assert options.heads and options.kv_heads and options.key_size and options.value_size, f"{options} not settled"
        self.sizes = options
        self.shapes = {"keys": (options.kv_heads, options.key_size), "values": (options.kv_heads, options.value_size)}
        for name, (groups, size) in self.shapes.items():
            if options.rank is None:
                self.add_module(name, GroupedLinear(count, width, groups * size, std=0.0))
            elif options.rank:
                self.add_module(f"{name}_down", GroupedLinear(count, width, options.rank))
                self.add_module(name, GroupedLinear(count, options.rank, groups * size, std=0.0))
        if inner := options.mlp_width:
            self.skip = GroupedLinear(count, width, inner)
            self.heard = GroupedLinear(count, options.heads * options.value_size, inner)
            self.mlp_norm = GroupedRMSNorm(count, 2 * inner)
            self.gate = GroupedLinear(count, 2 * inner, inner)
            self.inner = GroupedLinear(count, 2 * inner, inner)
            self.up = GroupedLinear(count, inner, width, std=0.0)

    @classmethod
    def settle(cls, options: Any, traits: Mapping[str, Any]) -> Mapping[str, Any]:
        """Take what is None from the decoder's attention."""
        return {name: value for name, value in traits.items() if getattr(options, name) is None}

    @property
    def exact(self) -> bool:
        """Tell whether slots are the decoder's own keys and values."""
        return self.sizes.rank == 0

    @property
    def state_width(self) -> int:
        """Return the width of what is read of K in a layer: its keys, its values, and what the attention read."""
        return sum(groups * size for groups, size in self.shapes.values()) + (0 if self.exact else self.width)

    def pack(self, states: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return what is read of K in one layer, [B, S, state_width].

        Args:
            states: What the attention read, [B, S, W].
            key: Its keys, turned, [B, G, S, d].
            value: Its values, [B, G, S, e].
        """
        own = [key.transpose(1, 2).flatten(2), value.transpose(1, 2).flatten(2)]
        return torch.cat(own if self.exact else [*own, states], dim=-1)

    def slots(self, states: Tensor, turn: Turn) -> dict[str, Tensor]:
        """Return keys [N, B, S, G, d] and values [N, B, S, G, e] of what was read of K, [N, B, S, state_width].

        Args:
            states: From :meth:`pack`, a layer each.
            turn: Turns the change of keys as those were turned.
        """
        widths = [groups * size for groups, size in self.shapes.values()]
        *own, read = states.split([*widths, states.shape[-1] - sum(widths)], dim=-1)
        slots = {name: part.unflatten(-1, shape) for (name, shape), part in zip(self.shapes.items(), own, strict=True)}
        if self.exact:
            return slots
        read = read.to(self.dtype)
        change = {name: self._change(name, read).unflatten(-1, shape) for name, shape in self.shapes.items()}
        change["keys"] = torch.stack([turn(number, keys) for number, keys in enumerate(change["keys"])])
        return {name: own + change[name].to(own.dtype) for name, own in slots.items()}

    def _change(self, name: str, read: Tensor) -> Tensor:
        """Return the trained change of keys or values, [N, B, S, G · size]."""
        change: Tensor = getattr(self, name)(getattr(self, f"{name}_down")(read) if self.sizes.rank else read)
        return change

    @property
    def dtype(self) -> torch.dtype:
        """Return the type of the parameters."""
        return next(self.parameters()).dtype

    def think(self, number: int, read: Tensor, answer: Tensor) -> Tensor | None:
        """Return what the MLP of one encoder adds behind its attention, [B, T, W]; None where there is none.

        Args:
            number: Of the encoder.
            read: What the attention read of x, [B, T, W].
            answer: What it answered, before its output projection, [B, T, H · e].
        """
        if not self.sizes.mlp_width:
            return None
        # One encoder's products by themselves: this runs for every layer and generated token.
        maps = [layer.weight[number] for layer in (self.skip, self.heard, self.gate, self.inner, self.up)]
        skip, hear, gate, inner, up = maps
        heard = torch.cat([F.linear(read.to(self.dtype), skip), F.linear(answer.to(self.dtype), hear)], dim=-1)
        normed = self.mlp_norm(heard[None], slice(number, number + 1))[0]
        return F.linear(F.silu(F.linear(normed, gate)) * F.linear(normed, inner), up)
