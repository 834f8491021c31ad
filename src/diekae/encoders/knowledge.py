"""Prepared knowledge of a batch, in the form that encoders read.

Shapes: N encoders of the bank, n of them in one call, B rows, S slots, G key heads of size r.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from diekae.encoders.partial_attention import Part, additive_mask, repeat_rows


@dataclass(frozen=True)
class KnowledgeBatch:
    """Prepared knowledge of B rows, padded to the longest; also what a causal encoder keeps of x."""

    tensors: dict[str, Tensor]
    """What the encoders keep of each slot, by name; each [N, B, S, …]."""
    mask: Tensor
    """Slots that hold knowledge, bool [B, S]; the others are padding."""
    token_count: Tensor
    """Number of tokens of K: the position at which x continues, int64 [B]. Only causal encoders read it."""
    full: bool = False
    """Whether it is known that no slot is padding, so that the mask need not be read."""
    positions: Tensor | None = None
    """Positions of the slots, where x begins at 0; int64 [B, S]. Only the decoder's own attention reads them."""
    anchor: KnowledgeBatch | None = None
    """Slots of the anchor, apart from those of K: x reads one anchor, however many documents there are."""
    _kept: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """Values of :meth:`cached`."""

    def append(self, new: KnowledgeBatch) -> KnowledgeBatch:
        """Return these slots followed by new ones, in the type of the new ones."""
        tensors = {name: torch.cat([self.tensors[name].to(added), added], dim=2) for name, added in new.tensors.items()}
        return KnowledgeBatch(tensors, torch.cat([self.mask, new.mask], dim=1), self.token_count + new.token_count)

    def map(self, change: Callable[[Tensor, int], Tensor]) -> KnowledgeBatch:
        """Return a copy in which ``change(tensor, dimension of the rows)`` replaces each tensor."""
        return KnowledgeBatch(
            {name: change(tensor, 1) for name, tensor in self.tensors.items()},
            change(self.mask, 0),
            change(self.token_count, 0),
            self.full,
            None if self.positions is None else change(self.positions, 0),
            None if self.anchor is None else self.anchor.map(change),
        )

    def repeat(self, repeats: int) -> KnowledgeBatch:
        """Return each row ``repeats`` times, as the decoder repeats the rows of x for its beams."""
        if repeats == 1:
            return self
        repeated: KnowledgeBatch = self.cached(
            f"{repeats} repeats", lambda: self.map(lambda tensor, dim: tensor.repeat_interleave(repeats, dim))
        )
        return repeated

    def part(self, which: slice, size: int, dtype: torch.dtype, contiguous: bool = False) -> Part:
        """Return the keys and values [N, B, S, G · r] of n encoders in the queries' type, for heads of size r.

        ``contiguous`` copies the slots once, so that those of one head are contiguous. The copy saves time where every
        generated token reads it.
        """
        keys, values = (self._heads(name, size, dtype, contiguous)[which].flatten(0, 1) for name in ("keys", "values"))
        mask = self.score_mask(dtype)
        return Part(keys, values, None if mask is None else repeat_rows(mask, len(keys)))

    def _heads(self, name: str, size: int, dtype: torch.dtype, contiguous: bool) -> Tensor:
        """Return keys or values as [N, B, G, S, r]."""
        heads: Tensor = self.tensors[name].to(dtype).unflatten(-1, (-1, size)).transpose(2, 3)
        if contiguous:
            heads = self.cached(f"contiguous {name}", heads.contiguous)
        return heads

    def score_mask(self, dtype: torch.dtype) -> Tensor | None:
        """Return what is added to the scores of each row, [B, 1, 1, S]; None where no slot is padding."""
        if self.full:
            return None
        mask: Tensor = self.cached("mask", lambda: additive_mask(self.mask[:, None, None], dtype))
        return mask

    def cached(self, name: str, make: Callable[[], Any]) -> Any:
        """Return what ``make`` returned when it was first called under this name.

        So the encoders of all layers, and all generated tokens, share what depends on K alone.
        """
        if name not in self._kept:
            self._kept[name] = make()
        return self._kept[name]
