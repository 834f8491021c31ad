"""A bank at its hookpoints in a decoder, and what its encoders read there.

Shapes: N encoders, B rows, T columns of a run, S slots, D what an encoder reads of one column.
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
from diekae.inject.attention import AttentionSite
from diekae.inject.attention_interface import AttentionFunction, AttentionWrapper, enable_wrapping, wrap_attention
from diekae.inject.hookpoints import Hookpoint
from diekae.inject.hooks import apply_hook
from diekae.inject.rotary import KeyRotation


@dataclass(frozen=True)
class Attached:
    """A bank at its hookpoints in a decoder."""

    decoder: PreTrainedModel
    """The frozen decoder."""
    bank: Bank
    """The encoders."""
    hookpoints: Mapping[int, Hookpoint]
    """Where differences are added, by layer."""
    sites: Mapping[int, AttentionSite]
    """The attention that reads slots, by layer; empty for encoders that compute differences themselves."""

    @property
    def by_attention(self) -> bool:
        """Tell whether the decoder's attention reads the bank's slots."""
        return self.bank.encoder.reads == "attention"

    @property
    def numbers(self) -> dict[int, int]:
        """Return the number of each layer's encoder in the bank, from 0."""
        return {layer: number for number, layer in enumerate(self.bank.layers)}

    @contextmanager
    def keeping(self) -> Iterator[list[Tensor]]:
        """Store what each encoder reads of every column of a run inside the block, N tensors [B, T, D] beside the bank.

        Example:
            with attached.keeping() as states:
                run(attached.decoder, ids, attached.hookpoints)
            torch.stack(states)  # [N, B, T, D]
        """
        states_read = [torch.empty(0)] * len(self.bank.layers)
        numbers = self.numbers

        def store_stream(layer: int, stream: Tensor, _output: Tensor) -> None:
            states_read[numbers[layer]] = stream.to(self.bank.bias.device)

        if self.by_attention:
            enable_wrapping(self.decoder)
            modules = {numbers[layer]: site.module for layer, site in self.sites.items()}
            with wrap_attention(modules, lambda number, states: self._storing_wrapper(number, states, states_read)):
                yield states_read
        else:
            with apply_hook(self.hookpoints, store_stream):
                yield states_read

    def _storing_wrapper(self, number: int, states: Tensor, states_read: list[Tensor]) -> AttentionWrapper:
        """Return a wrapper that stores what encoder ``number`` reads: attention inputs [B, T, W], keys and values."""
        encoder: Any = self.bank.encoder

        def attend(
            attention: AttentionFunction,
            module: nn.Module,
            query: Tensor,
            key: Tensor,
            value: Tensor,
            *rest: Any,
            **options: Any,
        ) -> tuple[Tensor, Any]:
            new = states.shape[1]  # with a cache, the keys of earlier columns are passed too
            packed = encoder.pack(states.to(key.device), key[:, :, -new:], value[:, :, -new:])
            states_read[number] = packed.to(self.bank.bias.device)
            return attention(module, query, key, value, *rest, **options)

        return attend

    def slots(
        self, states: Tensor, mask: Tensor, positions: Tensor, lengths: Tensor, anchor: KnowledgeBatch | None = None
    ) -> KnowledgeBatch:
        """Make slots of K, or of the anchor, from what :meth:`keeping` stored.

        Args:
            states: [N, B, S, D].
            mask: Which columns are real, bool [B, S].
            positions: Positions at which the columns were read, int64 [B, S].
            lengths: Number of tokens of K, int64 [B].
            anchor: Slots of the anchor, if these are K's.
        """
        encoder: Any = self.bank.encoder
        rotation = KeyRotation(self.decoder, self.sites, positions)
        tensors = encoder.slots(states, lambda number, keys: rotation(self.bank.layers[number], keys))
        return KnowledgeBatch(tensors, mask, lengths, False, positions, anchor)
