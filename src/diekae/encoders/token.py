"""The encoder ``token``: a small Llama over the decoder's token embeddings of K, then x (paper, section 3.1).

Shapes: N encoders, B rows, S slots (of K, or of earlier positions of x), T new tokens, V embedding width, W decoder
width, d encoder width, H heads of size d/H.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diekae.encoders.base import DifferenceEncoder, Encoded, register
from diekae.encoders.grouped import GroupedLinear, GroupedRMSNorm
from diekae.encoders.knowledge import KnowledgeBatch
from diekae.encoders.partial_attention import Part, additive_mask, attend, repeat_rows


@dataclass(frozen=True)
class TokenOptions:
    """Sizes of the ``token`` encoder; the defaults are the paper's, except for ``heads`` (32 in the paper)."""

    width: int = 128
    """d, width of the small transformer."""
    blocks: int = 4
    """Transformer blocks."""
    heads: int = 4
    """H, attention heads of each block; the paper's 32 have four dimensions each."""
    mlp_width: int = 512
    """Inner width of the SwiGLU."""
    rope_theta: float = 10000.0
    """Base of the rotary positions."""
    identity_start: bool = True
    """Start with a zero up-projection, so that an untrained bank changes nothing; the paper starts at random."""

    def __post_init__(self) -> None:
        """Check that sizes are positive, and heads of even size divide the width: rotary positions turn pairs."""
        if min(self.width, self.blocks, self.heads, self.mlp_width) < 1:
            raise ValueError(f"encoder sizes must be positive, got {self}.")
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ValueError(f"width={self.width} must split into heads={self.heads} of even size.")


@register("token")
class Token(DifferenceEncoder):
    """A stacked bank of small Llamas, causal over K then x; prepared knowledge is their own key/value cache.

    Documents that were prepared apart all begin at position 0, and x continues after the longest, so the order of the
    documents does not matter.
    """

    reads = "embeddings"
    options = TokenOptions
    sizes: TokenOptions

    def __init__(self, count: int, embedding_width: int, width: int, options: TokenOptions) -> None:
        """Build N encoders V → d → W."""
        super().__init__(count, embedding_width, width, options)
        d = options.width
        self.down = GroupedLinear(count, embedding_width, d)
        self.blocks = nn.ModuleList(_TokenBlock(count, options) for _ in range(options.blocks))
        self.norm = GroupedRMSNorm(count, d)
        self.up = GroupedLinear(count, d, width, std=0.0 if options.identity_start else None)

    def prepare(self, states: Tensor, mask: Tensor, previous: KnowledgeBatch | None = None) -> KnowledgeBatch:
        """Read the embeddings of K [1, B, K, V] to keys and values; see :meth:`DifferenceEncoder.prepare`."""
        # Right padding needs no mask of K × K: no real token sees it, and its own slots are masked later.
        left_padded = not mask.is_meta and bool((mask[:, 1:] & ~mask[:, :-1]).any())
        causal = self._causal_mask(mask) if left_padded else None
        _, new = self._run([] if previous is None else [previous], states, mask, causal, need_output=False)
        return new if previous is None else previous.append(new)

    def forward(
        self,
        knowledge: KnowledgeBatch,
        x: Tensor,
        mask: Tensor,
        which: slice = slice(None),
        x_cache: KnowledgeBatch | None = None,
    ) -> Encoded:
        """Return the differences of all N encoders at x [1, B, T, V]; see :meth:`DifferenceEncoder.forward`."""
        assert which == slice(None), "the token bank runs as a whole"
        earlier = [knowledge] if x_cache is None else [knowledge, x_cache]
        hidden, new = self._run(earlier, x, mask, self._causal_mask(mask), need_output=True)
        assert hidden is not None
        return Encoded(self.up(self.norm(hidden)), new if x_cache is None else x_cache.append(new))

    def _causal_mask(self, mask: Tensor) -> Tensor:
        """Return what is added to the scores of new tokens, [B, 1, T, T].

        Each token attends to the real tokens up to it, and always to itself.
        """
        length = mask.shape[1]
        lower = torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()
        visible = lower & mask[:, None] | torch.eye(length, dtype=torch.bool, device=mask.device)
        return additive_mask(visible, self.down.weight.dtype)[:, None]

    def _run(
        self,
        earlier: Sequence[KnowledgeBatch],
        tokens: Tensor,
        mask: Tensor,
        causal_mask: Tensor | None,
        need_output: bool,
    ) -> tuple[Tensor | None, KnowledgeBatch]:
        """Run the blocks over new tokens, embeddings [1, B, T, V], of which ``mask`` are real, bool [B, T].

        ``earlier`` are keys and values of what comes before them, K first. Without ``causal_mask``, from
        :meth:`_causal_mask`, a plain causal mask is used.

        Returns:
            The output [N, B, T, d], None if it is not needed, and the new keys and values.
        """
        start = sum(
            (part.token_count for part in earlier), torch.zeros(len(mask), dtype=torch.long, device=mask.device)
        )
        positions = start[:, None] + (mask.long().cumsum(1) - 1).clamp(min=0)
        angles = rotary(positions, self.sizes.width // self.sizes.heads, self.sizes.rope_theta)
        hidden = self.down(tokens.to(self.down.weight.dtype))
        causal_mask = None if causal_mask is None else repeat_rows(causal_mask, self.count * len(mask))
        keys, values = [], []
        for index, block in enumerate(self.blocks):
            is_last = index == len(self.blocks) - 1
            parts = [
                # Generated tokens read contiguous slots of K. Those of x are not worth a copy: they grow every time.
                _part_of(slots, index, hidden.dtype, contiguous=number == 0 and tokens.shape[2] <= 1)
                for number, slots in enumerate(earlier)
            ]
            hidden, key, value = block(hidden, parts, angles, causal_mask, need_output=need_output or not is_last)
            keys.append(key)
            values.append(value)
        tensors = {"keys": torch.stack(keys, dim=3), "values": torch.stack(values, dim=3)}
        return (hidden if need_output else None), KnowledgeBatch(tensors, mask, mask.sum(1))


def _part_of(slots: KnowledgeBatch, block: int, dtype: torch.dtype, contiguous: bool) -> Part:
    """Return the keys and values [N · B, H, S, d/H] of one block; see :meth:`KnowledgeBatch.part`."""

    def of_block(name: str) -> Tensor:
        heads = slots.tensors[name].to(dtype).movedim(2, 4)  # [N, B, blocks, H, S, d/H]
        of_all_blocks: Tensor = slots.cached(f"contiguous {name}", heads.contiguous) if contiguous else heads
        return of_all_blocks[:, :, block].flatten(0, 1)

    keys, values, mask = of_block("keys"), of_block("values"), slots.score_mask(dtype)
    return Part(keys, values, None if mask is None else repeat_rows(mask, len(keys)))


class _TokenBlock(nn.Module):
    """N Llama blocks, stacked: RMSNorm, attention, RMSNorm, SwiGLU."""

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
        self,
        x: Tensor,
        earlier: Sequence[Part],
        angles: tuple[Tensor, Tensor],
        causal_mask: Tensor | None,
        need_output: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return hidden [N, B, T, d] and the new keys and values [N, B, T, H, d/H].

        With ``need_output=False`` only keys and values are computed: at the positions of K nothing reads the output of
        the last block.
        """
        normed = self.attention_norm(x)
        key = rotate(self.key(normed).unflatten(-1, (self.heads, -1)), angles)
        value = self.value(normed).unflatten(-1, (self.heads, -1))
        if not need_output:
            return x, key, value
        query = rotate(self.query(normed).unflatten(-1, (self.heads, -1)), angles)
        count, rows = x.shape[:2]
        q, k, v = (t.flatten(0, 1).transpose(1, 2) for t in (query, key, value))
        attended = attend(q, [*earlier, Part(k, v, causal_mask, causal=causal_mask is None)])
        x = x + self.output(attended.transpose(1, 2).flatten(2).unflatten(0, (count, rows)))
        normed = self.mlp_norm(x)
        return x + self.down(F.silu(self.gate(normed)) * self.up(normed)), key, value


def rotary(positions: Tensor, size: int, theta: float) -> tuple[Tensor, Tensor]:
    """Return cosine and sine [B, T, 1, size] of the rotary angles at positions [B, T] (Su et al., 2021)."""
    frequencies = theta ** -(torch.arange(0, size, 2, device=positions.device, dtype=torch.float32) / size)
    angles = (positions[..., None].float() * frequencies).repeat(1, 1, 2)[:, :, None]
    return angles.cos(), angles.sin()


def rotate(x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate x [N, B, T, H, size] by the angles from :func:`rotary`."""
    cos, sin = (part.to(x.dtype) for part in angles)
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin
