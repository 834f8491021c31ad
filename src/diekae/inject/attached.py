"""A bank at its hookpoints in a decoder, and what its encoders read there.

Shapes: N encoders, B rows, T columns of a run, K knowledge tokens, a tokens of the anchor, S of either, D what an
encoder reads of one column.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from diekae.encoders import KnowledgeBatch
from diekae.encoders.bank import Bank
from diekae.inject.attention import AttentionSite
from diekae.inject.attention_interface import AttentionCall, enable_wrapping, observe_attention
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
    own_anchor: bool = False
    """Whether x keeps its own anchor after K."""

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
        encoder: Any = self.bank.encoder

        def store_stream(layer: int, stream: Tensor, _output: Tensor) -> None:
            states_read[numbers[layer]] = stream.to(self.bank.bias.device)

        def store_slots(call: AttentionCall) -> None:
            new = call.states.shape[1]  # with a cache, the keys of earlier columns are passed too
            packed = encoder.pack(call.states.to(call.key.device), call.key[:, :, -new:], call.value[:, :, -new:])
            states_read[call.number] = packed.to(self.bank.bias.device)

        if self.by_attention:
            enable_wrapping(self.decoder)
            modules = {numbers[layer]: site.module for layer, site in self.sites.items()}
            with observe_attention(modules, store_slots):
                yield states_read
        else:
            with apply_hook(self.hookpoints, store_stream):
                yield states_read

    def slots(self, states: Tensor, mask: Tensor, anchor_states: Tensor, anchor_mask: Tensor) -> KnowledgeBatch:
        """Make slots of K and of its anchor from what :meth:`keeping` stored, with gradients to the bank.

        K ends where x begins: anchor and K have the positions from −|K| on, or from −|K| − a if x keeps its own anchor.

        Args:
            states: What the encoders read of K, [N, B, K, D].
            mask: Real tokens of K, bool [B, K].
            anchor_states: What they read of the anchor, [N, B, a, D].
            anchor_mask: Real tokens of the anchor, bool [B, a].
        """
        lengths, anchor_lengths = mask.sum(1), anchor_mask.sum(1)
        first = -lengths - (anchor_lengths if self.own_anchor else 0)
        anchor = self.slots_from(anchor_states, anchor_mask, first, lengths)
        return self.slots_from(states, mask, first + anchor_lengths, lengths, anchor)

    def slots_from(
        self, states: Tensor, mask: Tensor, first: Tensor, lengths: Tensor, anchor: KnowledgeBatch | None = None
    ) -> KnowledgeBatch:
        """Make slots of some columns, as :meth:`slots` of all.

        Args:
            states: [N, B, S, D].
            mask: Real columns, bool [B, S].
            first: Position of each row's first column, int64 [B].
            lengths: Number of tokens of K, int64 [B].
            anchor: Slots of the anchor, if these are K's.
        """
        encoder: Any = self.bank.encoder
        positions = first[:, None] + torch.arange(mask.shape[1], device=mask.device)
        rotation = KeyRotation(self.decoder, self.sites, positions)
        tensors = encoder.slots(states, lambda number, keys: rotation(self.bank.layers[number], keys))
        return KnowledgeBatch(tensors, mask, lengths, positions=positions, anchor=anchor)
