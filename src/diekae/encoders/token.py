"""The paper's encoder: a small Llama over the decoder's token embeddings of K, then x (paper, section 3.1).

Shapes: N encoders, B rows, S slots of K (and of x already read), T new positions, V embedding width, W decoder width,
d encoder width, H heads of d/H.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diekae.encoders.base import (
    DifferenceEncoder,
    Encoded,
    GroupedLinear,
    GroupedRMSNorm,
    register,
    visible_columns,
)
from diekae.encoders.knowledge import KnowledgeBatch
from diekae.encoders.parts import Part, added, attend, repeat_rows


@dataclass(frozen=True)
class TokenOptions:
    """Sizes of the ``token`` encoder; the defaults are the paper's but for the heads (32 there)."""

    width: int = 128
    """d, width of the small transformer."""
    blocks: int = 4
    """Transformer blocks."""
    heads: int = 4
    """Attention heads a block; the paper's 32 have four dimensions each."""
    mlp_width: int = 512
    """Inner width of the SwiGLU."""
    rope_theta: float = 10000.0
    """Base of the rotary positions."""
    identity_start: bool = True
    """Start with a zero up-projection, so that an untrained bank changes nothing; the paper starts at random."""

    def __post_init__(self) -> None:
        """Check that heads divide the width into even parts (rotary positions turn pairs).

        Raises:
            ValueError: They do not, or a size is not positive.
        """
        if min(self.width, self.blocks, self.heads, self.mlp_width) < 1:
            raise ValueError(f"encoder sizes must be positive, got {self}.")
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ValueError(f"width={self.width} must split into heads={self.heads} of even size.")


@register("token")
class Token(DifferenceEncoder):
    """A stacked bank of small Llamas, causal over K then x; its memory is their own key/value cache.

    Documents that were prepared apart all begin at position 0, and x goes on after the longest: their order does
    not matter.
    """

    reads = "embeddings"
    options = TokenOptions

    def __init__(self, count: int, embedding_width: int, width: int, options: TokenOptions) -> None:
        """Build N encoders V → d → W."""
        super().__init__(count, embedding_width, width)
        self.sizes = options
        d = options.width
        self.down = GroupedLinear(count, embedding_width, d)
        self.blocks = nn.ModuleList(_Block(count, options) for _ in range(options.blocks))
        self.norm = GroupedRMSNorm(count, d)
        self.up = GroupedLinear(count, d, width, std=0.0 if options.identity_start else None)

    def prepare(self, knowledge: Tensor, mask: Tensor, past: KnowledgeBatch | None = None) -> KnowledgeBatch:
        """Read K [1, B, K, V] into keys and values; see :meth:`DifferenceEncoder.prepare`."""
        # Nothing real sees padding on its right, and what stands there stays hidden: no mask of K × K is needed.
        left = not mask.is_meta and bool((mask[:, 1:] & ~mask[:, :-1]).any())
        own = added(visible_columns(None, mask), self.down.weight.dtype)[:, None] if left else None
        _, new = self._read([] if past is None else [past], knowledge, mask, own, need_output=False)
        return new if past is None else past.then(new)

    def forward(
        self,
        prepared: KnowledgeBatch,
        x: Tensor,
        mask: Tensor,
        which: slice = slice(None),
        seen: KnowledgeBatch | None = None,
    ) -> Encoded:
        """Return the differences of all N encoders at x [1, B, T, V]; see :meth:`DifferenceEncoder.forward`."""
        assert which == slice(None), "the token bank runs as a whole"
        before = [prepared] if seen is None else [prepared, seen]
        own = added(visible_columns(None, mask), self.down.weight.dtype)[:, None]
        hidden, new = self._read(before, x, mask, own, need_output=True)
        assert hidden is not None
        return Encoded(self.up(self.norm(hidden)), new if seen is None else seen.then(new))

    def _read(
        self,
        before: Sequence[KnowledgeBatch],
        tokens: Tensor,
        mask: Tensor,
        own: Tensor | None,
        need_output: bool,
    ) -> tuple[Tensor | None, KnowledgeBatch]:
        """Run the blocks over new tokens [1, B, T, V].

        Args:
            before: What was read before them, K first.
            tokens: Their embeddings.
            mask: Which of them are real, bool [B, T].
            own: What is added to their scores of each other, [B, 1, T, T]; causal, and nothing else, if None.
            need_output: Whether somebody reads what the last block says.

        Returns:
            What it says [N, B, T, d], and the new keys and values.
        """
        start = sum(
            (prepared.position for prepared in before), torch.zeros(len(mask), dtype=torch.long, device=mask.device)
        )
        positions = start[:, None] + (mask.long().cumsum(1) - 1).clamp(min=0)
        turn = rotary(positions, self.sizes.width // self.sizes.heads, self.sizes.rope_theta)
        hidden = self.down(tokens.to(self.down.weight.dtype))
        own = None if own is None else repeat_rows(own, self.count * len(mask))
        keys, values = [], []
        for index, block in enumerate(self.blocks):
            last = index == len(self.blocks) - 1
            parts = [
                # What was read of x grows with every token: K alone is worth laying out.
                _part(prepared, index, hidden.dtype, once=number > 0 or tokens.shape[2] > 1)
                for number, prepared in enumerate(before)
            ]
            hidden, key, value = block(hidden, parts, turn, own, output=need_output or not last)
            keys.append(key)
            values.append(value)
        new = KnowledgeBatch(
            {"keys": torch.stack(keys, dim=3), "values": torch.stack(values, dim=3)}, mask, mask.sum(1)
        )
        return (hidden if need_output else None), new


def _part(prepared: KnowledgeBatch, block: int, dtype: torch.dtype, once: bool) -> Part:
    """Return one block's keys and values [N · B, H, S, d/H] of what was read; see :meth:`KnowledgeBatch.part`."""
    found = []
    for name in ("keys", "values"):
        lying = prepared.tensors[name].to(dtype).movedim(2, 4)  # [N, B, blocks, H, S, d/H]
        laid: Tensor = lying if once else prepared.lasting(f"laid {name}", (), lying.contiguous)
        found.append(laid[:, :, block].flatten(0, 1))
    mask = prepared.hidden(dtype)
    return Part(found[0], found[1], None if mask is None else repeat_rows(mask, len(found[0])))


class _Block(nn.Module):
    """N Llama blocks side by side: RMSNorm, attention, RMSNorm, SwiGLU."""

    def __init__(self, count: int, options: TokenOptions) -> None:
        super().__init__()
        d, self.heads = options.width, options.heads
        self.attention_norm = GroupedRMSNorm(count, d)
        self.query = GroupedLinear(count, d, d)
        self.key = GroupedLinear(count, d, d)
        self.value = GroupedLinear(count, d, d)
        self.output = GroupedLinear(count, d, d)
        self.mlp_norm = GroupedRMSNorm(count, d)
        self.gate = GroupedLinear(count, d, options.mlp_width)
        self.up = GroupedLinear(count, d, options.mlp_width)
        self.down = GroupedLinear(count, options.mlp_width, d)

    def forward(
        self, x: Tensor, before: Sequence[Part], turn: tuple[Tensor, Tensor], own: Tensor | None, output: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return hidden [N, B, T, d] and the new keys and values [N, B, T, H, d/H].

        With ``output=False`` only keys and values are computed: nobody reads the last block at K's positions.
        """
        normed = self.attention_norm(x)
        key = rotate(self.key(normed).unflatten(-1, (self.heads, -1)), turn)
        value = self.value(normed).unflatten(-1, (self.heads, -1))
        if not output:
            return x, key, value
        query = rotate(self.query(normed).unflatten(-1, (self.heads, -1)), turn)
        count, rows = x.shape[:2]
        q, k, v = (t.flatten(0, 1).transpose(1, 2) for t in (query, key, value))
        mixed = attend(q, [*before, Part(k, v, own, causal=own is None)])
        x = x + self.output(mixed.transpose(1, 2).flatten(2).unflatten(0, (count, rows)))
        normed = self.mlp_norm(x)
        return x + self.down(F.silu(self.gate(normed)) * self.up(normed)), key, value


def rotary(positions: Tensor, size: int, theta: float) -> tuple[Tensor, Tensor]:
    """Return cosine and sine [B, T, 1, size] of the rotary angles at positions [B, T] (Su et al., 2021)."""
    frequencies = theta ** -(torch.arange(0, size, 2, device=positions.device, dtype=torch.float32) / size)
    angles = (positions[..., None].float() * frequencies).repeat(1, 1, 2)[:, :, None]
    return angles.cos(), angles.sin()


def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Turn x [N, B, T, H, size] by its positions."""
    cos, sin = (part.to(x.dtype) for part in turn)
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin
