"""The encoder ``attention``: the decoder's own attention of x reads slots of K, as it does in D(K, x).

In the bank's layers the attention of x sees keys and values of the anchor and K. At the attention's output, this adds
the difference that reading K makes there (design, section 3):

    A(q; anchor, K, x) − A(q; anchor, x)

An untrained bank in all layers gives the logits of D(K, x). What is trained makes up for layers that are left out: a
change of K's keys and values that starts at zero, and a gated MLP on the output of each attention.

Shapes: N encoders, B rows, S slots, T positions of x, W decoder width, H query heads, G key heads, d dimensions of a
key, e dimensions of a value.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from diekae.encoders.base import Encoder, register
from diekae.encoders.grouped import EPSILON, GroupedLinear, GroupedRMSNorm

Rotate = Callable[[int, Tensor], Tensor]
"""``rotate(number, keys)`` rotates keys [B, S, G, d] of encoder ``number`` to their positions (RoPE)."""


@dataclass(frozen=True)
class AttentionOptions:
    """Sizes of the ``attention`` encoder; a size of None is taken from the decoder."""

    heads: int | None = None
    """H, query heads."""
    kv_heads: int | None = None
    """G, heads of keys and values."""
    key_size: int | None = None
    """d, dimensions of a key."""
    value_size: int | None = None
    """e, dimensions of a value."""
    rank: int | None = None
    """Rank of the trained change of K's keys and values; None for a full matrix, 0 for no change."""
    mlp_width: int = 64
    """Width of the gated MLP on each attention's output; 0 for none."""

    def __post_init__(self) -> None:
        """Check that sizes are positive, and heads divide each other (ValueError)."""
        sizes = (self.heads, self.kv_heads, self.key_size, self.value_size)
        positive = all(size is None or size > 0 for size in sizes) and min(self.rank or 0, self.mlp_width) >= 0
        if not positive or (self.heads and self.kv_heads and self.heads % self.kv_heads):
            raise ValueError(f"attention sizes must be positive and kv_heads must divide heads, got {self}.")


@register("attention")
class Attention(Encoder):
    """Makes the slots of K in N layers, with a small gated MLP for each attention."""

    reads = "attention"
    options = AttentionOptions
    retired = ("sharpness",)
    sizes: AttentionOptions

    def __init__(self, count: int, embedding_width: int, width: int, options: AttentionOptions) -> None:
        """Build N encoders that change nothing yet; sizes that are None must have been resolved."""
        super().__init__(count, embedding_width, width, options)
        assert options.heads and options.kv_heads and options.key_size and options.value_size, f"{options} not resolved"
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

    @property
    def exact(self) -> bool:
        """Tell whether slots are the decoder's own keys and values, without a trained change."""
        return self.sizes.rank == 0

    @property
    def state_width(self) -> int:
        """Return the width of what :meth:`pack` keeps of each token: keys, values, and what the attention reads."""
        return sum(groups * size for groups, size in self.shapes.values()) + (0 if self.exact else self.width)

    def pack(self, states: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Join what the encoder reads of K in one layer, [B, S, state_width].

        It is keys of the attention, rotated to their positions [B, G, S, d], its values [B, G, S, e], and the states
        that it reads [B, S, W].
        """
        parts = [key.transpose(1, 2).flatten(2), value.transpose(1, 2).flatten(2)]
        return torch.cat(parts if self.exact else [*parts, states], dim=-1)

    def slots(self, states: Tensor, rotate: Rotate) -> dict[str, Tensor]:
        """Return keys [N, B, S, G, d] and values [N, B, S, G, e]: the decoder's own plus the trained change.

        The states are those of :meth:`pack`, [N, B, S, state_width]; ``rotate`` rotates the change of the keys, as the
        decoder rotated its own.
        """
        widths = [groups * size for groups, size in self.shapes.values()]
        *parts, read = states.split([*widths, states.shape[-1] - sum(widths)], dim=-1)
        slots = {
            name: part.unflatten(-1, shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }
        if self.exact:
            return slots
        read = read.to(self.dtype)
        change = {name: self._change(name, read).unflatten(-1, shape) for name, shape in self.shapes.items()}
        change["keys"] = torch.stack([rotate(number, keys) for number, keys in enumerate(change["keys"])])
        return {name: tensor + change[name].to(tensor.dtype) for name, tensor in slots.items()}

    def _change(self, name: str, read: Tensor) -> Tensor:
        """Return the trained change of ``keys`` or ``values``, [N, B, S, G · size], for states read [N, B, S, W]."""
        change: Tensor = getattr(self, name)(getattr(self, f"{name}_down")(read) if self.sizes.rank else read)
        return change

    @property
    def dtype(self) -> torch.dtype:
        """Return the type of the parameters."""
        return next(self.parameters()).dtype

    def mlp_weights(self) -> list[tuple[Tensor, ...]]:
        """Return the weights of each encoder's MLP, as :meth:`mlp_output` takes them; an empty list if there is no MLP.

        The weights are taken apart in one step, because a step for each layer costs as much as some of its products.
        """
        if not self.sizes.mlp_width:
            return []
        parts = (self.skip, self.heard, self.mlp_norm, self.gate, self.inner, self.up)
        return list(zip(*(part.weight.unbind() for part in parts), strict=True))

    @staticmethod
    def mlp_output(weights: Sequence[Tensor], read: Tensor, attended: Tensor) -> Tensor:
        """Return the output of one encoder's MLP, [B, T, W], from one item of :meth:`mlp_weights` on the same device.

        Args:
            weights: The item.
            read: What the attention reads of x, [B, T, W].
            attended: The attention's output before its output projection, [B, T, H · e].
        """
        skip, heard, gain, gate, inner, up = weights
        joined = torch.cat([F.linear(read.to(skip), skip), F.linear(attended.to(heard), heard)], dim=-1)
        normed = F.rms_norm(joined.float(), gain.shape, gain.float(), EPSILON).to(joined.dtype)
        return F.linear(F.silu(F.linear(normed, gate)) * F.linear(normed, inner), up)
