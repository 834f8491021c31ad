"""Prepared knowledge of a batch, as encoders read it.

Shapes: N encoders of the bank, n of them in one call, B rows, S memory slots, T positions of x, G key heads of r.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from diekae.encoders.parts import Part, added, repeat_rows


@dataclass(frozen=True)
class KnowledgeBatch:
    """Prepared knowledge of a batch of rows, padded to the longest."""

    tensors: dict[str, Tensor]
    """What the encoder keeps of K, by name; each [N, B, S, …]."""
    mask: Tensor
    """Which slots hold knowledge; bool [B, S]."""
    position: Tensor
    """Position at which x goes on after K, in tokens; int64 [B]. Only causal encoders read it."""
    full: bool = False
    """Whether all slots are known to hold knowledge, so that nobody need ask the mask."""
    places: Tensor | None = None
    """Positions of the slots, x beginning at 0; int64 [B, S]. The decoder's own attention alone reads them."""
    anchor: KnowledgeBatch | None = None
    """Slots of the anchor, apart from K's: x reads one anchor, however many documents there are."""
    _kept: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def stack(cls, parts: Sequence[KnowledgeBatch]) -> KnowledgeBatch:
        """Join memories of the same rows and slots that hold different encoders."""
        tensors = {name: torch.cat([part.tensors[name] for part in parts]) for name in parts[0].tensors}
        return cls(tensors, parts[0].mask, parts[0].position)

    def then(self, new: KnowledgeBatch) -> KnowledgeBatch:
        """Return these slots with others behind them, in the type of the new ones."""
        tensors = {name: torch.cat([self.tensors[name].to(fresh), fresh], dim=2) for name, fresh in new.tensors.items()}
        return KnowledgeBatch(tensors, torch.cat([self.mask, new.mask], dim=1), self.position + new.position)

    def of(self, which: slice) -> KnowledgeBatch:
        """Return the memory of some encoders."""
        return replace(self, tensors={name: tensor[which] for name, tensor in self.tensors.items()}, _kept={})

    def map(self, change: Callable[[Tensor, int], Tensor]) -> KnowledgeBatch:
        """Return a copy in which ``change(tensor, dimension of the rows)`` replaced each tensor."""
        return KnowledgeBatch(
            {name: change(tensor, 1) for name, tensor in self.tensors.items()},
            change(self.mask, 0),
            change(self.position, 0),
            self.full,
            None if self.places is None else change(self.places, 0),
            None if self.anchor is None else self.anchor.map(change),
        )

    def part(self, which: slice, size: int, dtype: torch.dtype, mask: Tensor | None = None, once: bool = True) -> Part:
        """Return keys and values [N, B, S, G · r] of some encoders for their attention.

        Args:
            which: The n encoders.
            size: r, dimensions of a head.
            dtype: Of the queries.
            mask: What is added to the scores of each row, [B, 1, T, S]; by default all that is known is visible.
            once: Whether they are asked once and lie as they are; or by every generated token, for which each head's
                slots are laid behind each other, a copy that pays after a few.
        """
        keys, values = (self._heads(name, size, dtype, once)[which].flatten(0, 1) for name in ("keys", "values"))
        mask = self.hidden(dtype) if mask is None else mask
        return Part(keys, values, None if mask is None else repeat_rows(mask, len(keys)))

    def _heads(self, name: str, size: int, dtype: torch.dtype, once: bool) -> Tensor:
        """Return keys or values as [N, B, G, S, r]."""
        lying = self.tensors[name].to(dtype).unflatten(-1, (-1, size)).transpose(2, 3)
        laid: Tensor = lying if once else self.lasting(f"laid {name}", (), lying.contiguous)
        return laid

    def hidden(self, dtype: torch.dtype) -> Tensor | None:
        """Return what is added to each row's scores, [B, 1, 1, S]; None where all slots are full."""
        if self.full:
            return None
        mask: Tensor = self.lasting("mask", (), lambda: added(self.mask[:, None, None], dtype))
        return mask

    def lasting(self, name: str, given: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        """Return what ``make`` makes, and keep it as long as the very same tensors are given.

        So the encoders of one forward, asked layer by layer, share what depends on the layout of x alone.
        """
        known = self._kept.get(name)
        if known is None or any(one is not other for one, other in zip(known[0], given, strict=True)):
            known = self._kept[name] = (given, make())
        return known[1]
