"""Which of K's slots and x's keys each query of a forward sees.

Shapes: B rows, a slots of the anchor, S slots of K, T queries, C keys of x (cached ones among them), L columns of the
prompt.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from diekae.encoders import KnowledgeBatch
from diekae.encoders.partial_attention import additive_mask


@dataclass(frozen=True, eq=False)
class ForwardColumns:
    """The columns of x in one forward, as the attention of all layers needs to know them."""

    knowledge: KnowledgeBatch
    """Slots of the B rows."""
    receives: Tensor
    """Columns that receive, bool [B, T]; padding is False."""
    positions: Tensor
    """Positions of the T columns, int64 [B, T], or [1, T] if they are the same in all rows."""
    hidden_anchor: Tensor
    """Columns of the prompt that hold x's own anchor: columns that receive see the anchor among the slots instead; bool
    [B, L]."""
    stop: int
    """Columns of x up to the end of this forward, cached ones among them."""
    all_receive: bool = False
    """Whether it is known that all columns receive."""
    others: bool = False
    """Whether columns other than the anchor receive nothing: they keep the decoder's own output bit for bit."""
    growing: bool = False
    """Whether the forward was given a cache, so that forwards with more columns are to be expected."""

    def to(self, device: torch.device) -> ForwardColumns:
        """Return a copy on another device, without what the encoders keep of the slots."""
        slots = self.knowledge
        parts = replace(slots, tensors={}, anchor=None if slots.anchor is None else replace(slots.anchor, tensors={}))
        names = ("receives", "positions", "hidden_anchor")
        moved = {name: getattr(self, name).to(device) for name in names}
        return replace(self, knowledge=parts.map(lambda tensor, _dim: tensor.to(device)), **moved)


class SlotMasks:
    """Masks over slots and keys for one forward; layers with the same mask share one."""

    def __init__(self, columns: ForwardColumns) -> None:
        """Prepare the masks of one forward."""
        self.columns = columns
        anchor = columns.knowledge.anchor
        self._parts = [columns.knowledge] if anchor is None else [anchor, columns.knowledge]
        self._masks: dict[tuple[int | None, int], tuple[Tensor | None, Tensor]] = {}

    def get(
        self,
        mask: Tensor | None,
        window: int | None,
        query: Tensor,
        keys: range,
        share: int,
    ) -> Tensor:
        """Return the mask over a + S slots and x's keys: bool, or added to the scores, as the layer's own mask is.

        Args:
            mask: The layer's own mask over x's keys; None for a plain causal one.
            window: The layer's sliding window.
            query: [B, H, T, d].
            keys: Columns of x that the keys belong to.
            share: How many query heads are folded into one: the mask is repeated for each and added to the scores.

        Returns:
            [B, heads or 1, T · share, a + S + keys].
        """
        name = (window, share)
        # Accelerate gives each layer on another device a copy of the mask: only the last one is kept.
        if name not in self._masks or self._masks[name][0] is not mask:
            joined = self._join(mask, window, query, keys)
            if share > 1:
                joined = additive_mask(joined, query.dtype).repeat(1, 1, share, 1)
            self._masks[name] = mask, joined
        return self._masks[name][1]

    def _join(self, mask: Tensor | None, window: int | None, query: Tensor, keys: range) -> Tensor:
        """Join the mask over slots with the layer's own. Columns that receive nothing see no slots."""
        rows, length = len(query), query.shape[2]
        if mask is None:
            # Aligned at the upper left, as in PyTorch's kernels: a static cache has room behind the last column.
            mask = torch.ones(length, len(keys), dtype=torch.bool, device=query.device)[None, None]
            mask = mask.tril() if length > 1 else mask
        mask = mask.expand(rows, -1, -1, -1)
        receives = self.columns.receives[:, None, :, None]
        slots = (self._visible_slots(window) & receives).expand(rows, mask.shape[1], length, -1)
        anchor = self.columns.hidden_anchor[:, keys.start : keys.stop]
        hidden = nn.functional.pad(anchor, (0, len(keys) - anchor.shape[1]))[:, None, None] & receives
        if mask.dtype == torch.bool:
            return torch.cat([slots, mask & ~hidden], dim=-1)
        hidden_mask = mask.masked_fill(hidden, torch.finfo(mask.dtype).min)
        return torch.cat([additive_mask(slots, mask.dtype), hidden_mask], dim=-1)

    def _visible_slots(self, window: int | None) -> Tensor:
        """Return which slots each query sees, bool [B, 1, T or 1, a + S]."""
        real = torch.cat([part.mask for part in self._parts], dim=1)[:, None, None]
        if window is None:
            return real
        positions = torch.cat([part.positions for part in self._parts], dim=1)[:, None, None]  # type: ignore[misc]
        return real & (positions > self.columns.positions[:, None, :, None] - window)
