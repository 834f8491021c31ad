"""K's slots among the keys of x: what the attention of the bank's layers is handed in one forward of the decoder.

Slots are joined to the layer's keys, and the decoder's own implementation attends to both, so whatever it does to
scores (soft caps, sinks, scaling) it does to all of them. Columns that receive nothing keep the answer of the
decoder's own call.

Shapes: B rows, a slots of the anchor, S slots of K, T queries, C keys of x (cached ones among them), G key heads,
d head size.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from diekae.encoders import KnowledgeBatch
from diekae.inject.attention import Attend

_ALONE: Any = SimpleNamespace(num_key_value_groups=1, is_causal=False)
"""Stands for a module each of whose key heads has one query head."""
Watch = Callable[[int, Tensor], None]
"""Told, in each layer that reads K, its encoder's number and how much attention each query gives to each of K's slots:
[B, H, T, S]; with what it gives to the anchor and to x, it adds up to 1. Columns that receive nothing give nothing."""
_ROOM = 128
"""Tokens for which a buffer has room behind the slots: so often they are copied again."""


def _attend_folded(
    own: Attend, share: int, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, **options: Any
) -> tuple[Tensor, Any]:
    """Attend with heads that share keys as one head with ``share`` times the queries; the mask is folded already.

    PyTorch's kernel would be handed every key once for each head that shares it: of long knowledge most of a pass.
    """
    rows, _, length, size = query.shape
    groups = keys.shape[1]
    folded = query.reshape(rows, groups, share * length, size)
    answer, weights = own(_ALONE, folded, keys, values, mask, **{**options, "is_causal": False})
    apart = answer.reshape(rows, share, length, groups, -1).permute(0, 2, 3, 1, 4)
    return apart.reshape(rows, length, groups * share, -1), weights


class Slots:
    """Keys and values of K in one layer, and a buffer in which those of x are put behind them, token by token."""

    def __init__(self, prepared: KnowledgeBatch, number: int) -> None:
        """Take encoder ``number``'s slots of a batch."""
        parts = [prepared] if prepared.anchor is None else [prepared.anchor, prepared]
        self.number, self.count = number, prepared.mask.shape[1]
        self.parts = [[part.tensors[name][number].transpose(1, 2) for part in parts] for name in ("keys", "values")]
        self.length = sum(part.shape[2] for part in self.parts[0])
        self._buffers: list[Tensor] | None = None

    def joined(self, *own: Tensor, more: bool = False) -> list[Tensor]:
        """Return keys and values of K and of x, each [B, G, a + S + C, d]."""
        if torch.is_grad_enabled() or own[0].shape[2] == 0 or self.parts[0][0].is_meta:
            return [self._cat(parts, x) for parts, x in zip(self.parts, own, strict=True)]
        need = self.length + own[0].shape[2]
        if self._buffers is None or not self._fits(self._buffers[0], own[0], need):
            room = _ROOM if more or self._buffers is not None else 0
            self._buffers = [self._cat(parts, x, room) for parts, x in zip(self.parts, own, strict=True)]
        else:
            for buffer, x in zip(self._buffers, own, strict=True):
                buffer[:, :, self.length : need] = x
        return [buffer[:, :, :need] for buffer in self._buffers]

    def _fits(self, buffer: Tensor, keys: Tensor, need: int) -> bool:
        """Tell whether x's keys can be put into a buffer."""
        # What was made in inference mode cannot be written to outside of it.
        modes = buffer.is_inference() == torch.is_inference_mode_enabled()
        return modes and buffer.dtype == keys.dtype and len(buffer) == len(keys) and buffer.shape[2] >= need

    def _cat(self, parts: list[Tensor], own: Tensor, room: int = 0) -> Tensor:
        rows = len(own)
        known = [part.to(own) if len(part) == rows else part.to(own).expand(rows, -1, -1, -1) for part in parts]
        free = [own.new_empty(rows, own.shape[1], room, own.shape[3])] if room else []
        return torch.cat([*known, own, *free], dim=2)


class Columns:
    """Which columns of x one forward holds, as the attention of all layers needs to know; made once a forward."""

    def __init__(
        self,
        prepared: KnowledgeBatch,
        receives: Tensor,
        places: Tensor,
        hidden: Tensor,
        cut: int | None,
        total: int,
        who: Literal["all", "behind", "some"],
        more: bool = False,
        watch: Watch | None = None,
    ) -> None:
        """Describe a forward.

        Args:
            prepared: Slots of the B rows.
            receives: Columns that receive, bool [B, T].
            places: Positions of the T columns, int64 [B, T].
            hidden: Columns of x's own anchor, which gives way to that among the slots, bool [B, columns of the prompt].
            cut: How many first columns that are, where they are the same in all rows, and all else is real; else None.
            total: Columns of x up to the end of this forward, cached ones among them.
            who: Whether ``all`` columns receive, all ``behind`` the anchor with which this forward begins, or ``some``.
            more: Whether more columns are to follow, for a cache is kept.
            watch: Told how much attention K's slots are given.
        """
        self.watch = watch
        self.prepared, self.receives, self.places, self.total = prepared, receives, places, total
        self.hidden, self.cut, self.who, self.more = hidden, cut, who, more
        self._masks: dict[tuple[int, int | None], tuple[Any, Tensor | None]] = {}

    def read(
        self,
        slots: Slots,
        own: Attend,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        *rest: Any,
        **options: Any,
    ) -> tuple[Tensor, Any]:
        """Attend from x's queries to K's slots and x's keys; arguments as :data:`diekae.inject.attention.Read`'s."""
        # The column of x that the first key is of: a sliding window's cache holds the last ones alone.
        first = max(0, self.total - key.shape[2])
        cut = None if self.cut is None else max(0, self.cut - first)
        keys, values = slots.joined(key[:, :, cut:], value[:, :, cut:], more=self.more)
        share = 1 if self.watch else self._share(own, query, key, mask, rest, options)
        joined = self._mask(mask, options.get("sliding_window"), query, key, first, cut, share)
        if share > 1:
            answer, weights = _attend_folded(own, share, query, keys, values, joined, **options)
        else:
            answer, weights = own(module, query, keys, values, joined, *rest, **options)
        if self.watch is not None:
            given = _weights(query, keys, joined, options.get("scaling"))
            given = given[..., slots.length - slots.count : slots.length]
            self.watch(slots.number, given * self.receives[:, None, :, None])
        if self.who == "all":
            return answer, weights
        if self.who == "behind":
            n = self.cut
            few = mask if mask is None else mask[..., :n, :n]
            bare = own(module, query[:, :, :n], key[:, :, :n], value[:, :, :n], few, *rest, **options)[0]
            return torch.cat([bare, answer[:, n:]], dim=1), weights
        bare = own(module, query, key, value, mask, *rest, **options)[0]
        return torch.where(self.receives[:, :, None, None], answer, bare), weights

    def _share(
        self, own: Attend, query: Tensor, key: Tensor, mask: Tensor | None, rest: Any, options: dict[str, Any]
    ) -> int:
        """Return how many query heads can be asked as one; 1 where their masks may differ, or nothing is gained."""
        alike = (mask is None or mask.shape[1] == 1) and options.get("position_bias") is None
        return query.shape[1] // key.shape[1] if own is sdpa_attention_forward and alike and not rest else 1

    def _mask(
        self,
        mask: Tensor | None,
        window: int | None,
        query: Tensor,
        key: Tensor,
        first: int,
        cut: int | None,
        share: int,
    ) -> Tensor | None:
        """Return the mask of slots and keys, bool or added to scores as the layer's is; None where all is seen.

        Once a forward for all layers with the same: added to scores, and for heads that are asked as one, repeated.
        """
        place = (id(mask), window)
        if place not in self._masks:
            made = self._make_mask(mask, window, query, key, first, cut)
            if share > 1 and made is not None:
                made = _added(made, query.dtype).repeat(1, 1, share, 1)
            # The layer's own mask is kept too, lest another take its address.
            self._masks[place] = mask, made
        return self._masks[place][1]

    def _make_mask(
        self, mask: Tensor | None, window: int | None, query: Tensor, key: Tensor, first: int, cut: int | None
    ) -> Tensor | None:
        rows, length, columns = len(query), query.shape[2], key.shape[2]
        known = self._visible(window)
        if mask is None and cut is not None and length == 1 and known is None:
            return None
        if mask is None:
            # As the kernels' own: aligned at the upper left, for a static cache has room behind the last column.
            mask = torch.ones(length, columns, dtype=torch.bool, device=query.device)[None, None]
            mask = mask.tril() if length > 1 else mask
        mask = mask.expand(rows, -1, -1, -1)
        if cut is None:
            hidden = self.hidden[:, first : first + columns]
            hidden = nn.functional.pad(hidden, (0, columns - hidden.shape[1]))[:, None, None]
            mask = mask & ~hidden if mask.dtype == torch.bool else mask.masked_fill(hidden, torch.finfo(mask.dtype).min)
        else:
            mask = mask[..., cut:]
        if known is None:
            known = torch.ones(rows, 1, 1, self._slots, dtype=torch.bool, device=query.device)
        known = known.expand(rows, mask.shape[1], length, -1)
        return torch.cat([known if mask.dtype == torch.bool else _added(known, mask.dtype), mask], dim=-1)

    @property
    def _slots(self) -> int:
        return self.prepared.mask.shape[1] + (0 if self.prepared.anchor is None else self.prepared.anchor.mask.shape[1])

    def _visible(self, window: int | None) -> Tensor | None:
        """Return which slots each query sees, bool [B, 1, T or 1, a + S]; None where that is all of them."""
        parts = [self.prepared] if self.prepared.anchor is None else [self.prepared.anchor, self.prepared]
        if window is None and all(part.full for part in parts):
            return None
        filled = torch.cat([part.mask for part in parts], dim=1)[:, None, None]
        if window is None:
            return filled
        stands = torch.cat([part.places for part in parts], dim=1)[:, None, None]  # type: ignore[misc]
        return filled & (stands > self.places[:, None, :, None] - window)


def _weights(query: Tensor, keys: Tensor, mask: Tensor | None, scaling: float | None) -> Tensor:
    """Return the weights of attention, [B, H, T, keys]; without soft caps and sinks, which few decoders have."""
    keys = keys.repeat_interleave(query.shape[1] // keys.shape[1], 1)
    scores = query.float() @ keys.float().transpose(2, 3) * (scaling or query.shape[-1] ** -0.5)
    return (scores if mask is None else scores + _added(mask, torch.float32)).softmax(-1)


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what is added to scores: 0 where a bool mask lets see, the least finite number elsewhere."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)
