"""K's slots in one layer, joined with the keys and values of x.

Shapes: B rows, a slots of the anchor, S slots of K, T queries, C keys of x (cached ones among them), H query heads,
G key heads, d head size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from diekae.encoders import KnowledgeBatch

Watch = Callable[[int, Tensor], None]
"""Called as ``watch(number, weights)`` in each layer that reads K: the number of its encoder, and how much attention
each query gives to each of K's slots, [B, H, T, S]. With the attention to the anchor and to x, it sums to 1. Columns
that receive nothing give no attention."""
_BUFFER_TOKENS = 128
"""Tokens of x for which a buffer has room when it is made; then everything is copied into a new one."""


class Slots:
    """Keys and values of K in one layer, and a buffer in which those of x are written after them, token by token."""

    def __init__(self, number: int, count: int, parts: list[list[Tensor]]) -> None:
        """Take the slots of encoder ``number``.

        Args:
            number: The encoder's number.
            count: S.
            parts: Keys and values, each [B, G, slots, d] of the anchor, if it is apart, and of K.
        """
        self.number, self.count, self.parts = number, count, parts
        self.length = sum(part.shape[2] for part in parts[0])
        """a + S."""
        self._buffers: list[Tensor] | None = None

    def joined(self, keys: Tensor, values: Tensor, growing: bool = False) -> list[Tensor]:
        """Return keys and values of K followed by those of x, each [B, G, a + S + C, d].

        Args:
            keys: Of x, [B, G, C, d].
            values: Of x.
            growing: Whether to expect further calls with more keys.
        """
        of_x, columns = (keys, values), keys.shape[2]
        # A forward without a cache keeps no buffer: those of all layers are as large as K's slots.
        alone = not growing and self._buffers is None
        if alone or torch.is_grad_enabled() or self.parts[0][0].is_meta:
            return [_join(parts, states) for parts, states in zip(self.parts, of_x, strict=True)]
        length = self.length + columns
        if self._buffers is None or not _fits(self._buffers[0], keys, length):
            inputs = zip(self.parts, of_x, strict=True)
            self._buffers = [_join(parts, states, _BUFFER_TOKENS) for parts, states in inputs]
        else:
            for buffer, states in zip(self._buffers, of_x, strict=True):
                buffer.narrow(2, self.length, columns).copy_(states)
        return [buffer.narrow(2, 0, length) for buffer in self._buffers]


def slots_of_layers(knowledge: KnowledgeBatch) -> list[Slots]:
    """Return the slots of every encoder of a batch."""
    parts = [knowledge] if knowledge.anchor is None else [knowledge.anchor, knowledge]
    # Taken apart in one step: a step for each layer would cost each call as much as a layer's attention.
    keys, values = ([part.tensors[name].transpose(2, 3).unbind() for part in parts] for name in ("keys", "values"))
    by_layer = zip(zip(*keys, strict=True), zip(*values, strict=True), strict=True)
    count = knowledge.mask.shape[1]
    return [Slots(number, count, [list(of_k), list(of_v)]) for number, (of_k, of_v) in enumerate(by_layer)]


def _fits(buffer: Tensor, keys: Tensor, length: int) -> bool:
    """Tell whether x's keys can be written to a buffer, so that it holds ``length`` columns."""
    # A tensor made in inference mode cannot be written to outside of it.
    same_mode = buffer.is_inference() == torch.is_inference_mode_enabled()
    return same_mode and buffer.dtype == keys.dtype and len(buffer) == len(keys) and buffer.shape[2] >= length


def _join(parts: list[Tensor], states: Tensor, room: int = 0) -> Tensor:
    """Copy slots and the keys or values of x into one tensor with ``room`` free columns at its end."""
    rows = len(states)
    slots = [part.to(states) if len(part) == rows else part.to(states).expand(rows, -1, -1, -1) for part in parts]
    free = [states.new_empty(rows, states.shape[1], room, states.shape[3])] if room else []
    return torch.cat([*slots, states, *free], dim=2)
