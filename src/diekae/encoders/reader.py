"""The encoder ``reader``: cross-attention from the decoder's states of x to its states of K, in the same layer.

The decoder has already processed K and x. The encoder learns only the queries, keys and values, and what to add for
their attention. The attention has no positions, so documents that were prepared apart can be used together.

Shapes: N encoders (n of them in one call), B rows, K knowledge tokens, S slots, T positions of x, W decoder width,
d encoder width, H query heads, G key heads, r head size.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diekae.encoders.base import DifferenceEncoder, Encoded, register
from diekae.encoders.grouped import GroupedLinear, GroupedRMSNorm
from diekae.encoders.knowledge import KnowledgeBatch
from diekae.encoders.partial_attention import attend_part, fold_heads, unfold_heads


@dataclass(frozen=True)
class ReaderOptions:
    """Sizes of the ``reader`` encoder."""

    width: int = 128
    """d, width of queries and attention outputs over all heads."""
    heads: int = 8
    """H, query heads."""
    kv_heads: int | None = None
    """G, heads of keys and values, each shared by H/G query heads; H if None. Prepared knowledge grows with G."""
    skip_width: int | None = None
    """Width of the projection of x that bypasses the attention; d if None."""
    mlp_width: int = 256
    """Inner width of the gated MLP."""

    def __post_init__(self) -> None:
        """Check that sizes are positive, and heads divide the width and each other (ValueError)."""
        sizes = (self.width, self.heads, self.kv_heads or 1, self.skip_width or 1, self.mlp_width)
        if min(sizes) < 1 or self.width % self.heads or self.heads % (self.kv_heads or 1):
            raise ValueError(
                f"reader sizes must be positive, heads must divide width and kv_heads must divide heads, got {self}."
            )


@register("reader")
class Reader(DifferenceEncoder):
    """A cross-attention from x to K in each layer, a gated MLP, and an up-projection that starts at zero."""

    reads = "states"
    options = ReaderOptions
    sizes: ReaderOptions
    retired = ("start",)

    def __init__(self, count: int, embedding_width: int, width: int, options: ReaderOptions) -> None:
        """Build N readers W → d → W."""
        super().__init__(count, embedding_width, width, options)
        d, skip = options.width, options.skip_width or options.width
        self.head_size, self.groups = d // options.heads, options.kv_heads or options.heads
        shared = self.head_size * self.groups
        self.knowledge_norm = GroupedRMSNorm(count, width)
        self.input_norm = GroupedRMSNorm(count, width)
        self.key = GroupedLinear(count, width, shared)
        self.value = GroupedLinear(count, width, shared)
        self.query = GroupedLinear(count, width, d)
        self.skip = GroupedLinear(count, width, skip)
        # A slot with a value of zero, for an x about which K says nothing: the weights of a softmax always sum to 1.
        self.null_key = nn.Parameter(torch.zeros(count, shared))
        self.mlp_norm = GroupedRMSNorm(count, d + skip)
        self.gate = GroupedLinear(count, d + skip, options.mlp_width)
        self.inner = GroupedLinear(count, d + skip, options.mlp_width)
        self.outer = GroupedLinear(count, options.mlp_width, skip)
        self.up = GroupedLinear(count, d + skip, width, std=0.0)

    def prepare(self, states: Tensor, mask: Tensor, previous: KnowledgeBatch | None = None) -> KnowledgeBatch:
        """Project K's states [N, B, K, W] to keys and values; see :meth:`DifferenceEncoder.prepare`."""
        normed, gain = self.knowledge_norm.split(states.to(self.key.weight.dtype))
        tensors = {"keys": self.key(normed, gain=gain), "values": self.value(normed, gain=gain)}
        knowledge = KnowledgeBatch(tensors, mask, mask.sum(1))
        return knowledge if previous is None else previous.append(knowledge)

    def forward(
        self,
        knowledge: KnowledgeBatch,
        x: Tensor,
        mask: Tensor,  # noqa: ARG002
        which: slice = slice(None),
        x_cache: KnowledgeBatch | None = None,  # noqa: ARG002
    ) -> Encoded:
        """Return the differences of n encoders at x [n, B, T, W]; see :meth:`DifferenceEncoder.forward`."""
        normed, gain = self.input_norm.split(x.to(self.query.weight.dtype), which)
        attend = self._attend_joined if torch.is_grad_enabled() else self._attend
        attended = attend(self.query(normed, which, gain), knowledge, which)
        hidden = self.mlp_norm(torch.cat([attended, self.skip(normed, which, gain)], dim=-1), which)
        mlp = self.outer(F.silu(self.gate(hidden, which)) * self.inner(hidden, which), which)
        return Encoded(self.up(torch.cat([attended, mlp], dim=-1), which))

    def _attend(self, query: Tensor, knowledge: KnowledgeBatch, which: slice) -> Tensor:
        """Attend from query [n, B, T, d] to the real slots and the null slot; [n, B, T, d].

        The slots are not copied. The value of the null slot is zero, so it only scales the attention over the others.
        """
        folded = fold_heads(query.unflatten(-1, (-1, self.head_size)), self.groups)
        part = knowledge.part(which, self.head_size, query.dtype, contiguous=query.shape[2] <= 1)
        attended = attend_part(folded, part)
        null = self.null_key[which].to(query.dtype).unflatten(-1, (self.groups, self.head_size))
        # [n, G, r] to [n · B, G, r, 1]
        score = folded @ null.repeat_interleave(query.shape[1], 0)[..., None] * self.head_size**-0.5
        share = (attended.log_sum - score.float()).sigmoid().to(query.dtype)
        return unfold_heads(attended.output * share, *query.shape[:3])

    def _attend_joined(self, query: Tensor, knowledge: KnowledgeBatch, which: slice) -> Tensor:
        """Compute the same as :meth:`_attend` with gradients: null slot and real slots are joined."""
        count, rows = query.shape[:2]
        null = self.null_key[which, None, None].to(query.dtype).expand(-1, rows, -1, -1)
        keys = torch.cat([null, knowledge.tensors["keys"][which].to(query.dtype)], dim=2)
        values = torch.cat([torch.zeros_like(null), knowledge.tensors["values"][which].to(query.dtype)], dim=2)
        visible = F.pad(knowledge.mask, (1, 0), value=True).expand(count, -1, -1).flatten(0, 1)[:, None, None]
        q, k, v = (t.flatten(0, 1).unflatten(-1, (-1, self.head_size)).transpose(1, 2) for t in (query, keys, values))
        heads = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, enable_gqa=k.shape[1] != q.shape[1])
        attended: Tensor = heads.transpose(1, 2).flatten(2).unflatten(0, (count, rows))
        return attended
