"""The decoder's own attention, asked once with K in sight and once without: what reading K adds to it.

In D(K, x) the attention of a layer reads anchor, K and x together; in D(x), anchor and x. Their difference is

    W_o (A(q; anchor, K, x) − A(q; anchor, x)),

and with the decoder's own projections of the layer it *is* the difference at the attention's output, so these encoders
have most of what they need before their first step. What they learn is what the layers between them would have read.

Shapes: N encoders (n asked at once), B rows, S slots of K, P positions of x read before, T new ones, W decoder width,
H query heads, G key heads, r head size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diekae.encoders.base import (
    Encoded,
    Encoder,
    GroupedLinear,
    GroupedRMSNorm,
    Sample,
    register,
    visible_columns,
)
from diekae.encoders.memory import MemoryBatch
from diekae.encoders.parts import added, ask, fold, unfold
from diekae.encoders.start import AttentionWeights, reduce_attention


@dataclass(frozen=True)
class AttentionOptions:
    """Sizes of the ``attention`` encoder."""

    heads: int | None = None
    """H, query heads; the decoder's if None."""
    kv_heads: int | None = None
    """G, heads of keys and values, each shared by H/G query heads; the decoder's if None. Memory grows with it."""
    head_size: int | None = None
    """r, dimensions a head, even; the decoder's if None."""
    biases: bool | None = None
    """Whether queries and keys have a bias; as the decoder's have if None."""
    norms: bool | None = None
    """Whether each head's queries and keys are normed; as the decoder's are if None."""
    mlp_width: int = 64
    """Width of a gated MLP over x and what attention found, for what a layer cannot read itself; 0 for none."""
    start: str = "decoder"
    """``decoder``: from the attention of the decoder's own layer, taken when training on differences begins (other
    objectives alone begin at random); or ``random``."""

    def __post_init__(self) -> None:
        """Check the sizes.

        Raises:
            ValueError: A size is not positive, heads do not divide each other, or the start is unknown.
        """
        heads, shared, size = self.heads or 1, self.kv_heads or 1, self.head_size or 2
        if min(heads, shared, size) < 1 or self.mlp_width < 0 or size % 2 or (self.heads and heads % shared):
            raise ValueError(
                f"attention sizes must be positive, kv_heads must divide heads and head_size must be even, got {self}."
            )
        if self.start not in ("decoder", "random"):
            raise ValueError(f"start={self.start!r} is not known; choose decoder or random.")


_Turn = tuple[Tensor, Tensor]
"""Cosine and sine of rotary angles, [N, B, T, G, r/2]."""


class _View(NamedTuple):
    """What all layers of one forward share."""

    turn: _Turn
    """How queries and keys of x are turned."""
    own: Tensor
    """With gradients, which columns of x are visible, bool [B, T, P + T]; without, what is added to the scores of
    folded queries, [B, 1, H/G · T, P + T]."""
    both: Tensor | None = None
    """With gradients, which slots of K and x are, bool [B, T, S + P + T]."""


def _turned(x: Tensor, turn: _Turn, which: slice) -> Tensor:
    """Turn queries or keys [n, B, T, heads, r] by the angles of their places."""
    cos, sin = (part[which].repeat_interleave(x.shape[3] // part.shape[3], 3) for part in turn)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


@register("attention")
class Attention(Encoder):
    """The attention of N decoder layers, over K and x and over x alone, and a small gated MLP."""

    reads = "inputs"
    options = AttentionOptions

    def __init__(self, count: int, embedding_width: int, width: int, options: AttentionOptions) -> None:
        """Build N encoders; sizes that are None must have been settled."""
        super().__init__(count, embedding_width, width)
        assert options.heads and options.kv_heads and options.head_size, f"{options} is not settled"
        self.sizes, self.heads, self.groups, self.size = options, options.heads, options.kv_heads, options.head_size
        d, shared, inner = self.heads * self.size, self.groups * self.size, options.mlp_width
        self.norm = GroupedRMSNorm(count, width)
        self.query = GroupedLinear(count, width, d, std=(width * self.size) ** -0.5)
        self.key = GroupedLinear(count, width, shared)
        self.value = GroupedLinear(count, width, shared)
        if options.biases:
            self.query_bias = nn.Parameter(torch.zeros(count, d))
            self.key_bias = nn.Parameter(torch.zeros(count, shared))
        if options.norms:
            self.query_norm = GroupedRMSNorm(count, self.size)
            self.key_norm = GroupedRMSNorm(count, self.size)
            with torch.no_grad():
                self.query_norm.weight.fill_(self.size**-0.5)  # scores are bare products
        if inner:
            self.skip = GroupedLinear(count, width, inner)
            self.heard = GroupedLinear(count, d, inner)
            self.mlp_norm = GroupedRMSNorm(count, 2 * inner)
            self.gate = GroupedLinear(count, 2 * inner, inner)
            self.inner = GroupedLinear(count, 2 * inner, inner)
        self.up = GroupedLinear(count, d + inner, width, std=0.0)
        default = 10000.0 ** -(torch.arange(0, self.size, 2) / self.size)
        # Kept as bits: a bank that is cast to bf16 would round its angles: radians at some hundred tokens.
        self.register_buffer("angles", default.expand(count, self.groups, -1).contiguous().view(torch.int32))

    angles: Tensor

    @classmethod
    def settle(cls, options: Any, traits: Mapping[str, Any]) -> Mapping[str, Any]:
        """Take what is None from the decoder's attention."""
        return {name: value for name, value in traits.items() if getattr(options, name) is None}

    @property
    def frequencies(self) -> Tensor:
        """Return radians a token, [N, G, r/2]."""
        return self.angles.view(torch.float32)

    def prepare(self, knowledge: Tensor, mask: Tensor, past: MemoryBatch | None = None) -> MemoryBatch:
        """Project K's states [N, B, K, W] to turned keys and to values; see :meth:`Encoder.prepare`."""
        position = torch.zeros(len(mask), dtype=torch.long, device=mask.device) if past is None else past.position
        normed, gain = self.norm.split(knowledge.to(self.key.weight.dtype))
        places = position[:, None] + (mask.long().cumsum(1) - 1).clamp(min=0)
        keys = self._keys(normed, gain, self._angles(places, normed.dtype))
        memory = MemoryBatch({"keys": keys, "values": self.value(normed, gain=gain)}, mask, mask.sum(1))
        return memory if past is None else past.then(memory)

    def forward(
        self, memory: MemoryBatch, x: Tensor, mask: Tensor, which: slice = slice(None), seen: MemoryBatch | None = None
    ) -> Encoded:
        """Return the differences of the asked encoders at x [n, B, T, W]; see :meth:`Encoder.forward`."""
        normed, gain = self.norm.split(x.to(self.query.weight.dtype), which)
        given = (mask, None if seen is None else seen.mask)
        view: _View = memory.lasting("view", given, lambda: self._view(memory, mask, seen, normed.dtype))
        query = self._queries(normed, gain, view.turn, which)
        keys = self._keys(normed, gain, view.turn, which)
        own = MemoryBatch({"keys": keys, "values": self.value(normed, which, gain)}, mask, mask.sum(1))
        own = own if seen is None else seen.then(own)
        if view.both is None:
            answer = self._apart(query, memory, own, view, which)
        else:
            answer = self._joined(query, memory.of(which), own, view)
        if self.sizes.mlp_width:
            heard = torch.cat([self.skip(normed, which, gain), self.heard(answer, which)], dim=-1)
            inner = self.mlp_norm(heard, which)
            thought = F.silu(self.gate(inner, which)) * self.inner(inner, which)
            answer = torch.cat([answer, thought], dim=-1)
        return Encoded(self.up(answer, which), own)

    def _queries(self, normed: Tensor, gain: Tensor | None, turn: _Turn, which: slice) -> Tensor:
        """Return the turned queries of x [n, B, T, W], [n, B, T, H, r]."""
        query = self.query(normed, which, gain)
        query = query + self.query_bias[which, None, None].to(query.dtype) if self.sizes.biases else query
        query = query.unflatten(-1, (-1, self.size))
        query = _by_head(self.query_norm, query, which) if self.sizes.norms else query
        return _turned(query, turn, which)

    def _keys(self, normed: Tensor, gain: Tensor | None, turn: _Turn, which: slice = slice(None)) -> Tensor:
        """Return the turned keys of K or x [n, B, T, W], [n, B, T, G · r]."""
        key = self.key(normed, which, gain)
        key = key + self.key_bias[which, None, None].to(key.dtype) if self.sizes.biases else key
        key = key.unflatten(-1, (-1, self.size))
        key = _by_head(self.key_norm, key, which) if self.sizes.norms else key
        return _turned(key, turn, which).flatten(3)

    def _view(self, memory: MemoryBatch, mask: Tensor, seen: MemoryBatch | None, dtype: torch.dtype) -> _View:
        """Work out what all layers of one forward share."""
        before = torch.zeros_like(memory.position) if seen is None else seen.position
        # In the run with K the anchor stands before K, not after it: the first token behind it follows K's last.
        start = memory.position - self.anchor_tokens + before
        turn = self._angles(start[:, None] + (mask.long().cumsum(1) - 1).clamp(min=0), dtype)
        visible = visible_columns(None if seen is None else seen.mask, mask)
        if torch.is_grad_enabled():
            known = memory.mask[:, None].expand(-1, mask.shape[1], -1)
            return _View(turn, visible, torch.cat([known, visible], dim=2))
        return _View(turn, added(visible, dtype).repeat(1, self.heads // self.groups, 1)[:, None])

    def _angles(self, places: Tensor, dtype: torch.dtype) -> _Turn:
        """Return how all encoders turn queries and keys at places [B, T]."""
        angles = places[None, :, :, None, None].float() * self.frequencies[:, None, None]
        return angles.cos().to(dtype), angles.sin().to(dtype)

    def _apart(self, query: Tensor, memory: MemoryBatch, own: MemoryBatch, view: _View, which: slice) -> Tensor:
        """Return A(K, x) − A(x) = σ(L(K) − L(x)) (A(K) − A(x)), each read once; see :mod:`diekae.encoders.parts`."""
        folded = fold(query, self.groups)
        known = ask(folded, memory.part(which, self.size, query.dtype, once=query.shape[2] > 1), 1.0)
        seen = ask(folded, own.part(slice(None), self.size, query.dtype, view.own), 1.0)
        share = (known.weight - seen.weight).sigmoid().to(query.dtype)
        return unfold(share * (known.answer - seen.answer), *query.shape[:3])

    def _joined(self, query: Tensor, memory: MemoryBatch, own: MemoryBatch, view: _View) -> Tensor:
        """Return the same with gradients."""
        assert view.both is not None
        return self._attend(query, memory.then(own).tensors, view.both) - self._attend(query, own.tensors, view.own)

    def _attend(self, query: Tensor, slots: dict[str, Tensor], visible: Tensor) -> Tensor:
        """Attend from query [n, B, T, H, r] to the slots that are visible, bool [B, T, slots]; [n, B, T, H · r]."""
        count, rows = query.shape[:2]
        keys, values = (slots[name].unflatten(-1, (-1, self.size)) for name in ("keys", "values"))
        q, k, v = (t.flatten(0, 1).transpose(1, 2) for t in (query, keys, values))
        mask = visible.expand(count, -1, -1, -1).flatten(0, 1)[:, None]
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0, enable_gqa=self.groups != self.heads)
        answer: Tensor = mixed.transpose(1, 2).flatten(2).unflatten(0, (count, rows))
        return answer

    @property
    def starts_from_decoder(self) -> bool:
        """Tell whether training begins with :meth:`start_from`."""
        return self.sizes.start == "decoder"

    @torch.no_grad()
    def start_from(self, weights: Sequence[AttentionWeights], sample: Sample) -> None:
        """Take over the decoder's own attention; see :mod:`diekae.encoders.start`.

        Args:
            weights: Of the N layers.
            sample: Where the encoders will read, and the scale that they will be measured in.

        Raises:
            ValueError: Heads or widths are not those of the decoder.
        """
        query, key = weights[0].query, weights[0].key
        if weights[0].query_norm is not None and (not self.sizes.norms or self.size != key.shape[1]):
            raise ValueError(
                f"this decoder norms each head's queries and keys, so start='decoder' needs norms=True and "
                f"head_size={key.shape[1]}; got {self.sizes}."
            )
        if (self.heads, self.groups) != (len(query), len(key)) or self.size > key.shape[1]:
            raise ValueError(
                f"start='decoder' needs heads={len(query)}, kv_heads={len(key)} and a head_size of at most "
                f"{key.shape[1]}, as this decoder has; got {self.sizes}."
            )
        self.norm.weight.copy_(torch.stack([layer.norm for layer in weights]))
        known = self.norm(sample.known.float())[:, sample.known_mask]
        seen = self.norm(sample.seen.float())[:, sample.receives]
        found = [reduce_attention(layer, self.size, known[n], seen[n]) for n, layer in enumerate(weights)]
        self.query.weight.copy_(torch.stack([one.query.flatten(0, 1) for one in found]))
        self.key.weight.copy_(torch.stack([one.key.flatten(0, 1) for one in found]))
        self.value.weight.copy_(torch.stack([one.value.flatten(0, 1) for one in found]))
        self.angles.copy_(torch.stack([one.frequencies for one in found]).float().contiguous().view(torch.int32))
        if self.sizes.biases:
            self.query_bias.copy_(torch.stack([one.query_bias.flatten() for one in found]))
            self.key_bias.copy_(torch.stack([one.key_bias.flatten() for one in found]))
        if self.sizes.norms:
            for norm, gains in ((self.query_norm, "query_norm"), (self.key_norm, "key_norm")):
                norm.weight.copy_(torch.stack([getattr(layer, gains) for layer in weights]))
        output = torch.stack([one.output.transpose(0, 1).flatten(1) for one in found])
        self.up.weight[:, :, : output.shape[2]] = output / sample.scale[:, None, None]


def _by_head(norm: GroupedRMSNorm, x: Tensor, which: slice) -> Tensor:
    """Norm every head of x [n, B, T, heads, r] on its own."""
    normed: Tensor = norm(x.flatten(2, 3), which).unflatten(2, x.shape[2:4])
    return normed
