"""The reader: asks the decoder's own states of K with the decoder's own states of x, at the same layer.

It learns only *what to ask and what to make of the answer*; understanding K and x is left to the decoder, which has
done it already. Attention over K has no positions of its own, so documents prepared apart can be used together.

Shapes: N encoders (n asked at once), B rows, S slots of K, T positions of x, W decoder width, d encoder width, H heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diekae.encoders.base import Encoded, Encoder, GroupedLinear, GroupedRMSNorm, MemoryBatch, Sample, register
from diekae.encoders.start import AttentionWeights, reduce_attention


@dataclass(frozen=True)
class ReaderOptions:
    """Sizes of the ``reader`` encoder."""

    width: int = 128
    """d, width of queries and answers over all heads."""
    heads: int = 8
    """H, attention heads."""
    kv_heads: int | None = None
    """G, heads of keys and values, each shared by H/G query heads; H if None. Memory grows with G."""
    skip_width: int | None = None
    """s, width in which x reaches the MLP past the attention; d if None."""
    mlp_width: int = 256
    """Inner width of the gated MLP."""
    start: str = "random"
    """``random``, or ``decoder``: from the attention of the decoder's own layer, cut to d/H dimensions a head."""

    def __post_init__(self) -> None:
        """Check the sizes.

        Raises:
            ValueError: A size is not positive, heads do not divide the width or each other, or the start is unknown.
        """
        sizes = (self.width, self.heads, self.kv_heads or 1, self.skip_width or 1, self.mlp_width)
        if min(sizes) < 1 or self.width % self.heads or self.heads % (self.kv_heads or 1):
            raise ValueError(
                f"reader sizes must be positive, heads must divide width and kv_heads must divide heads, got {self}."
            )
        if self.start not in ("random", "decoder"):
            raise ValueError(f"start={self.start!r} is not known; choose random or decoder.")


@register("reader")
class Reader(Encoder):
    """One cross-attention from x to K a layer, a gated MLP, and an up-projection that starts at zero."""

    reads = "states"
    options = ReaderOptions

    def __init__(self, count: int, embedding_width: int, width: int, options: ReaderOptions) -> None:
        """Build N readers W → d → W."""
        super().__init__(count, embedding_width, width)
        self.sizes = options
        d, skip = options.width, options.skip_width or options.width
        shared = d // options.heads * (options.kv_heads or options.heads)
        self.knowledge_norm = GroupedRMSNorm(count, width)
        self.input_norm = GroupedRMSNorm(count, width)
        self.key = GroupedLinear(count, width, shared)
        self.value = GroupedLinear(count, width, shared)
        self.query = GroupedLinear(count, width, d)
        self.skip = GroupedLinear(count, width, skip)
        # A slot to attend to when K says nothing about x: softmax alone cannot look away.
        self.null_key = nn.Parameter(torch.zeros(count, shared))
        self.mlp_norm = GroupedRMSNorm(count, d + skip)
        self.gate = GroupedLinear(count, d + skip, options.mlp_width)
        self.inner = GroupedLinear(count, d + skip, options.mlp_width)
        self.outer = GroupedLinear(count, options.mlp_width, skip)
        self.up = GroupedLinear(count, d + skip, width, std=0.0)

    def prepare(self, knowledge: Tensor, mask: Tensor, past: MemoryBatch | None = None) -> MemoryBatch:
        """Project K's states [N, B, K, W] to keys and values; see :meth:`Encoder.prepare`."""
        normed, gain = self.knowledge_norm.split(knowledge.to(self.key.weight.dtype))
        tensors = {"keys": self.key(normed, gain=gain), "values": self.value(normed, gain=gain)}
        position = mask.sum(1)
        if past is not None:
            tensors = {name: torch.cat([past.tensors[name], new], dim=2) for name, new in tensors.items()}
            mask, position = torch.cat([past.mask, mask], dim=1), past.position + position
        return MemoryBatch(tensors, mask, position)

    def forward(self, memory: MemoryBatch, x: Tensor, mask: Tensor, which: slice = slice(None)) -> Encoded:  # noqa: ARG002
        """Return the differences of the asked encoders at x [n, B, T, W]; see :meth:`Encoder.forward`."""
        normed, gain = self.input_norm.split(x.to(self.query.weight.dtype), which)
        answer = self._attend(self.query(normed, which, gain), memory, which)
        seen = torch.cat([answer, self.skip(normed, which, gain)], dim=-1)
        inner = self.mlp_norm(seen, which)
        thought = self.outer(F.silu(self.gate(inner, which)) * self.inner(inner, which), which)
        return Encoded(self.up(torch.cat([answer, thought], dim=-1), which), memory)

    def _attend(self, query: Tensor, memory: MemoryBatch, which: slice) -> Tensor:
        """Attend from query [n, B, T, d] to the real slots of memory and the null slot; [n, B, T, d]."""
        count, rows = query.shape[:2]
        null = self.null_key[which, None, None].to(query.dtype).expand(-1, rows, -1, -1)
        keys = torch.cat([null, memory.tensors["keys"][which].to(query.dtype)], dim=2)
        values = torch.cat([torch.zeros_like(null), memory.tensors["values"][which].to(query.dtype)], dim=2)
        visible = F.pad(memory.mask, (1, 0), value=True).expand(count, -1, -1).flatten(0, 1)[:, None, None]
        size = self.sizes.width // self.sizes.heads
        q, k, v = (t.flatten(0, 1).unflatten(-1, (-1, size)).transpose(1, 2) for t in (query, keys, values))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, enable_gqa=k.shape[1] != q.shape[1])
        answer: Tensor = mixed.transpose(1, 2).flatten(2).unflatten(0, (count, rows))
        return answer

    @property
    def starts_from_decoder(self) -> bool:
        """Tell whether training begins with :meth:`start_from`."""
        return self.sizes.start == "decoder"

    @torch.no_grad()
    def start_from(self, weights: Sequence[AttentionWeights], sample: Sample) -> None:
        """Take over the decoder's own attention, read without positions; see :mod:`diekae.encoders.start`.

        The null slot becomes the decoder's key of the anchor, which is where its heads look when nothing calls them.

        Args:
            weights: Of the N layers.
            sample: Each layer's start is scaled to explain the most of it.

        Raises:
            ValueError: Heads or widths are not those of the decoder.
        """
        size = self.sizes.width // self.sizes.heads
        query, key = weights[0].query, weights[0].key
        if (self.sizes.heads, self.sizes.kv_heads or self.sizes.heads) != (len(query), len(key)) or size > key.shape[1]:
            raise ValueError(
                f"start='decoder' needs heads={len(query)}, kv_heads={len(key)} and a width of at most "
                f"{len(query) * key.shape[1]}, as this decoder has; got {self.sizes}."
            )
        self.knowledge_norm.weight.copy_(torch.stack([layer.norm for layer in weights]))
        self.input_norm.weight.copy_(self.knowledge_norm.weight)
        known = self.knowledge_norm(sample.known.float())[:, sample.known_mask]
        seen = self.input_norm(sample.seen.float())
        for n, layer in enumerate(weights):
            reduced = reduce_attention(layer, size, known[n], seen[n, sample.receives])
            self.query.weight[n] = reduced.query.flatten(0, 1)
            self.key.weight[n] = reduced.key.flatten(0, 1)
            self.value.weight[n] = reduced.value.flatten(0, 1)
            self.up.weight[n, :, : self.sizes.width] = reduced.output.transpose(0, 1).flatten(1)
        self.null_key.copy_(self.key(seen[:, :1, :1])[:, 0, 0])
        said = self(self.prepare(sample.known, sample.known_mask), sample.seen, sample.seen_mask).difference
        said = said.float()[:, sample.receives]
        gain = (said * sample.goal).sum((1, 2)) / said.square().sum((1, 2)).clamp(min=1e-12)
        self.up.weight.mul_(gain[:, None, None])
