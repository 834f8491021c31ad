"""A bank at its places in a decoder, and what its encoders read of a run.

Shapes: N encoders, B rows, T columns of a run, D what an encoder reads of one column.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from diekae.encoders import KnowledgeBatch
from diekae.encoders.bank import Bank
from diekae.inject.attention import Attend, AttentionSite, Read, Turner, reading, wrap_attention
from diekae.inject.hookpoints import Hookpoint
from diekae.inject.hooks import visiting


@dataclass(frozen=True)
class Attached:
    """A bank at its places in a decoder."""

    decoder: PreTrainedModel
    """The frozen decoder."""
    bank: Bank
    """The encoders."""
    points: Mapping[int, Hookpoint]
    """Where differences enter, by layer."""
    sites: Mapping[int, AttentionSite]
    """The attention that reads slots, by layer; empty for banks that compute differences themselves."""

    @property
    def by_attention(self) -> bool:
        """Tell whether the decoder's attention reads the bank's slots."""
        return self.bank.encoder.reads == "attention"

    @contextmanager
    def keeping(self) -> Iterator[list[Tensor]]:
        """Keep what the encoders read of every column of a run inside the block, [B, T, D] each, in their order."""
        kept = [torch.empty(0)] * len(self.bank.layers)
        numbers = {layer: number for number, layer in enumerate(self.bank.layers)}
        encoder: Any = self.bank.encoder

        def make(number: int, states: Tensor) -> Read:
            def read(
                own: Attend, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *rest: Any, **options: Any
            ) -> tuple[Tensor, Any]:
                new = states.shape[1]  # behind a cache the keys of all that went before are given too
                kept[number] = encoder.pack(states, key[:, :, -new:], value[:, :, -new:])
                return own(module, query, key, value, *rest, **options)

            return read

        def visit(layer: int, stream: Tensor, _output: Tensor) -> None:
            kept[numbers[layer]] = stream

        if self.by_attention:
            wrap_attention(self.decoder)
            with reading({numbers[layer]: site.module for layer, site in self.sites.items()}, make):
                yield kept
        else:
            with visiting(self.points, visit):
                yield kept

    def slots(
        self, states: Tensor, mask: Tensor, places: Tensor, position: Tensor, anchor: KnowledgeBatch | None = None
    ) -> KnowledgeBatch:
        """Make slots of what was read of K, or of the anchor, by :meth:`keeping`.

        Args:
            states: [N, B, S, D].
            mask: Which are real, bool [B, S].
            places: Positions that the columns stood at, int64 [B, S].
            position: Tokens of K, int64 [B].
            anchor: The anchor's slots, made before.
        """
        encoder: Any = self.bank.encoder
        turner = Turner(self.decoder, self.sites, places)
        tensors = encoder.slots(states, lambda number, keys: turner(self.bank.layers[number], keys))
        return KnowledgeBatch(tensors, mask, position, False, places, anchor)
