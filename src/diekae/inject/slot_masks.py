"""Which of K's slots and x's keys each query of a forward sees.

Shapes: B rows, a slots of the anchor, S slots of K, T queries, C keys of x (cached ones among them), L columns of the
prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from diekae.encoders import KnowledgeBatch
from diekae.encoders.partial_attention import additive_mask

Receivers = Literal["all", "after_anchor", "some"]
"""Which columns of a forward receive: all; all except x's own anchor, with which the forward begins; or some."""


@dataclass(frozen=True, eq=False)
class ForwardColumns:
    """The columns of x in one forward, as the attention of all layers needs to know them."""

    knowledge: KnowledgeBatch
    """Slots of the B rows."""
    receives: Tensor
    """Columns that receive, bool [B, T]; padding is False."""
    positions: Tensor
    """Positions of the T columns, int64 [B, T]."""
    hidden_anchor: Tensor
    """Columns of the prompt that hold x's own anchor: the attention sees the anchor among the slots instead; bool
    [B, L]."""
    anchor_length: int | None
    """How many first columns ``hidden_anchor`` marks, if they are the same in all rows; None where rows differ."""
    stop: int
    """Columns of x up to the end of this forward, cached ones among them."""
    receivers: Receivers
    growing: bool = False
    """Whether a cache is kept, so that forwards with more columns are to be expected."""


class SlotMasks:
    """Masks over slots and keys for one forward; layers with the same mask share one."""

    def __init__(self, columns: ForwardColumns) -> None:
        """Prepare the masks of one forward."""
        self._columns = columns
        anchor = columns.knowledge.anchor
        self._parts = [columns.knowledge] if anchor is None else [anchor, columns.knowledge]
        self._masks: dict[tuple[int, int | None], tuple[Tensor | None, Tensor | None]] = {}

    def get(
        self,
        mask: Tensor | None,
        window: int | None,
        query: Tensor,
        keys: range,
        hidden: int | None,
        share: int,
    ) -> Tensor | None:
        """Return the mask over a + S slots and x's keys: bool, or added to the scores, as the layer's own mask is.

        Args:
            mask: The layer's own mask over x's keys; None for a plain causal one.
            window: The layer's sliding window.
            query: [B, H, T, d].
            keys: Columns of x that the keys belong to.
            hidden: How many first keys of x are left out, as they belong to its own anchor; None where rows differ.
            share: How many query heads are folded into one: the mask is repeated for each and added to the scores.

        Returns:
            [B or 1, heads or 1, T · share, a + S + keys]; None where everything is visible.
        """
        name = (id(mask), window)
        if name not in self._masks:
            joined = self._join(mask, window, query, keys, hidden)
            if share > 1 and joined is not None:
                joined = additive_mask(joined, query.dtype).repeat(1, 1, share, 1)
            # The layer's own mask is stored too, so that no other object can get its id.
            self._masks[name] = mask, joined
        return self._masks[name][1]

    def _join(
        self, mask: Tensor | None, window: int | None, query: Tensor, keys: range, hidden: int | None
    ) -> Tensor | None:
        """Join the mask over slots with the layer's own; None where everything is visible."""
        rows, length = len(query), query.shape[2]
        slots = self._visible_slots(window)
        if mask is None and hidden is not None and length == 1 and slots is None:
            return None
        if mask is None:
            # Aligned at the upper left, as in PyTorch's kernels: a static cache has room behind the last column.
            mask = torch.ones(length, len(keys), dtype=torch.bool, device=query.device)[None, None]
            mask = mask.tril() if length > 1 else mask
        mask = mask.expand(rows, -1, -1, -1)
        mask = self._hide_anchor(mask, keys) if hidden is None else mask[..., hidden:]
        if slots is None:
            count = sum(part.mask.shape[1] for part in self._parts)
            slots = torch.ones(rows, 1, 1, count, dtype=torch.bool, device=query.device)
        slots = slots.expand(rows, mask.shape[1], length, -1)
        return torch.cat([slots if mask.dtype == torch.bool else additive_mask(slots, mask.dtype), mask], dim=-1)

    def _hide_anchor(self, mask: Tensor, keys: range) -> Tensor:
        """Hide the columns of x's own anchor in a mask [B, heads or 1, T, keys], where they differ between rows."""
        hidden = self._columns.hidden_anchor[:, keys.start : keys.stop]
        hidden = nn.functional.pad(hidden, (0, len(keys) - hidden.shape[1]))[:, None, None]
        return mask & ~hidden if mask.dtype == torch.bool else mask.masked_fill(hidden, torch.finfo(mask.dtype).min)

    def _visible_slots(self, window: int | None) -> Tensor | None:
        """Return which slots each query sees, bool [B, 1, T or 1, a + S]; None where it sees all."""
        if window is None and all(part.full for part in self._parts):
            return None
        real = torch.cat([part.mask for part in self._parts], dim=1)[:, None, None]
        if window is None:
            return real
        positions = torch.cat([part.places for part in self._parts], dim=1)[:, None, None]  # type: ignore[misc]
        return real & (positions > self._columns.positions[:, None, :, None] - window)
