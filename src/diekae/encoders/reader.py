"""The reader: asks the decoder's own states of K with the decoder's own states of x, at the same layer.

It learns only *what to ask and what to make of the answer*; understanding K and x is left to the decoder, which has
done it already. Attention over K has no positions of its own, so documents prepared apart can be used together.

Shapes: N encoders (n asked at once), B rows, S slots of K, T positions of x, W decoder width, d encoder width, H heads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diekae.encoders.base import DifferenceEncoder, Encoded, GroupedLinear, GroupedRMSNorm, register
from diekae.encoders.knowledge import KnowledgeBatch
from diekae.encoders.parts import ask, fold, unfold


@dataclass(frozen=True)
class ReaderOptions:
    """Sizes of the ``reader`` encoder."""

    width: int = 128
    """d, width of queries and answers over all heads."""
    heads: int = 8
    """H, attention heads."""
    kv_heads: int | None = None
    """G, heads of keys and values, each shared by H/G query heads; H if None. PreparedKnowledge grows with G."""
    skip_width: int | None = None
    """s, width in which x reaches the MLP past the attention; d if None."""
    mlp_width: int = 256
    """Inner width of the gated MLP."""

    def __post_init__(self) -> None:
        """Check the sizes.

        Raises:
            ValueError: A size is not positive, or heads do not divide the width or each other.
        """
        sizes = (self.width, self.heads, self.kv_heads or 1, self.skip_width or 1, self.mlp_width)
        if min(sizes) < 1 or self.width % self.heads or self.heads % (self.kv_heads or 1):
            raise ValueError(
                f"reader sizes must be positive, heads must divide width and kv_heads must divide heads, got {self}."
            )


@register("reader")
class Reader(DifferenceEncoder):
    """One cross-attention from x to K a layer, a gated MLP, and an up-projection that starts at zero."""

    reads = "states"
    options = ReaderOptions
    retired = ("start",)

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

    def prepare(self, knowledge: Tensor, mask: Tensor, past: KnowledgeBatch | None = None) -> KnowledgeBatch:
        """Project K's states [N, B, K, W] to keys and values; see :meth:`DifferenceEncoder.prepare`."""
        normed, gain = self.knowledge_norm.split(knowledge.to(self.key.weight.dtype))
        tensors = {"keys": self.key(normed, gain=gain), "values": self.value(normed, gain=gain)}
        prepared = KnowledgeBatch(tensors, mask, mask.sum(1))
        return prepared if past is None else past.then(prepared)

    def forward(
        self,
        prepared: KnowledgeBatch,
        x: Tensor,
        mask: Tensor,  # noqa: ARG002
        which: slice = slice(None),
        seen: KnowledgeBatch | None = None,  # noqa: ARG002
    ) -> Encoded:
        """Return the differences of the asked encoders at x [n, B, T, W]; see :meth:`DifferenceEncoder.forward`."""
        normed, gain = self.input_norm.split(x.to(self.query.weight.dtype), which)
        answer = self._attend(self.query(normed, which, gain), prepared, which)
        inner = self.mlp_norm(torch.cat([answer, self.skip(normed, which, gain)], dim=-1), which)
        thought = self.outer(F.silu(self.gate(inner, which)) * self.inner(inner, which), which)
        return Encoded(self.up(torch.cat([answer, thought], dim=-1), which))

    def _ask(self, query: Tensor, prepared: KnowledgeBatch, which: slice) -> Tensor:
        """Return the same without a copy of memory: the null slot, whose value is nothing, takes its share of it."""
        size, groups = self.sizes.width // self.sizes.heads, self.sizes.kv_heads or self.sizes.heads
        folded = fold(query.unflatten(-1, (-1, size)), groups)
        found = ask(folded, prepared.part(which, size, query.dtype, once=query.shape[2] > 1))
        null = self.null_key[which].to(query.dtype).unflatten(-1, (groups, size))
        # [n, G, r] for [n · B, G, r, 1]
        score = folded @ null.repeat_interleave(query.shape[1], 0)[..., None] * size**-0.5
        share = (found.weight - score.float()).sigmoid().to(query.dtype)
        return unfold(found.answer * share, *query.shape[:3])

    def _attend(self, query: Tensor, prepared: KnowledgeBatch, which: slice) -> Tensor:
        """Attend from query [n, B, T, d] to the real slots of memory and the null slot; [n, B, T, d]."""
        if not torch.is_grad_enabled():
            return self._ask(query, prepared, which)
        count, rows = query.shape[:2]
        null = self.null_key[which, None, None].to(query.dtype).expand(-1, rows, -1, -1)
        keys = torch.cat([null, prepared.tensors["keys"][which].to(query.dtype)], dim=2)
        values = torch.cat([torch.zeros_like(null), prepared.tensors["values"][which].to(query.dtype)], dim=2)
        visible = F.pad(prepared.mask, (1, 0), value=True).expand(count, -1, -1).flatten(0, 1)[:, None, None]
        size = self.sizes.width // self.sizes.heads
        q, k, v = (t.flatten(0, 1).unflatten(-1, (-1, size)).transpose(1, 2) for t in (query, keys, values))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, enable_gqa=k.shape[1] != q.shape[1])
        answer: Tensor = mixed.transpose(1, 2).flatten(2).unflatten(0, (count, rows))
        return answer
