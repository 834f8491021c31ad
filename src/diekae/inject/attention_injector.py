"""Injection by the decoder's own attention, which reads K's slots (the encoder ``attention``).

Shapes: b rows as the decoder runs them, T columns of one forward, W decoder width.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache

from diekae.encoders import KnowledgeBatch
from diekae.inject.attached import Attached
from diekae.inject.attention_interface import AttentionWrapper, add_wrappers, enable_wrapping
from diekae.inject.contexts import HookContext
from diekae.inject.hookpoints import first_tensor, with_first
from diekae.inject.hooks import keep_where
from diekae.inject.input_columns import Forward, InputColumns
from diekae.inject.rotary import exact_length
from diekae.inject.slot_attention import SlotAttention
from diekae.inject.slot_masks import ForwardColumns
from diekae.inject.slots import Slots, Watch, slots_of_layers


class AttentionInjector:
    """Lets the attention of the bank's layers read K's slots, and adds the output of each encoder's MLP after it."""

    def __init__(
        self, attached: Attached, knowledge: KnowledgeBatch, columns: InputColumns, watch: Watch | None = None
    ) -> None:
        """Prepare one call; arguments as for :class:`diekae.inject.injection.Injection`."""
        self._attached, self._knowledge, self._columns, self._watch = attached, knowledge, columns, watch
        self._encoder: Any = attached.bank.encoder
        self._numbers = attached.numbers
        self._exact_length = exact_length(attached.decoder)
        anchor = 0 if knowledge.anchor is None else knowledge.anchor.mask.sum(1)
        # Tokens of K and its anchor before x, less those of x's own anchor, which they replace.
        self._tokens_before = (knowledge.token_count + anchor - columns.hidden_anchor.sum(1)).cpu()
        self._slots: dict[int, list[Slots]] = {}  # of all layers, by the number of rows
        self._moved_weights: dict[int, Sequence[Tensor]] = {}
        self._clear()

    def _clear(self) -> None:
        """Drop what belongs to one forward."""
        self._slot_attention: SlotAttention | None = None
        self._mlp_weights: list[tuple[Tensor, ...]] = []
        self._mlp_outputs: dict[int, Tensor] = {}

    def add_hooks(self, context: HookContext) -> None:
        """Wrap the attention of the bank's layers, and add the MLPs' outputs, inside a block that is being entered."""
        enable_wrapping(self._attached.decoder)  # again, in case its implementation was changed since
        modules = {self._numbers[layer]: site.module for layer, site in self._attached.sites.items()}
        add_wrappers(context, modules, self._make_wrapper)
        if self._encoder.sizes.mlp_width:
            for layer, hookpoint in self._attached.hookpoints.items():
                context.add_hook(hookpoint.module, partial(self._add_mlp_output, self._numbers[layer]))

    def begin(self, forward: Forward) -> dict[str, Any]:
        """Prepare a forward; return the keyword arguments of the decoder to change.

        Raises:
            ValueError: K and x together are too long for this decoder, or x does not begin at position 0.
        """
        self._clear()
        if not self._columns.any_receives(forward.start, forward.stop):
            return {}
        self._check_length(forward.stop)
        positions = self._columns.positions_in(forward)
        columns = ForwardColumns(
            self._knowledge.repeat(forward.repeats),
            self._columns.receives_in(forward),
            positions,
            forward.repeated(self._columns.hidden_anchor),
            forward.stop,
            all_receive=self._columns.all_receive(forward),
            others=self._columns.has_others(forward),
            growing=forward.cache is not None,
        )
        rows = len(columns.knowledge.mask)
        if rows not in self._slots:  # before any block runs: a checkpointed block must compute the same twice
            self._slots[rows] = slots_of_layers(columns.knowledge)
        self._slot_attention = SlotAttention(columns, self._watch)
        self._mlp_weights = self._encoder.mlp_weights()
        if forward.positions is None and not self._columns.padded_left:
            return {"position_ids": None}  # the decoder computes the same positions itself
        return {"position_ids": positions}

    def end(self, _cache: Cache | None) -> None:
        """Finish a forward."""
        self._clear()

    def _check_length(self, stop: int) -> None:
        """Refuse columns of x that, after K, are beyond the length up to which positions are exact.

        Raises:
            ValueError: There are some.
        """
        if self._exact_length is None:
            return
        lengths = self._columns.count_valid(stop) + self._tokens_before
        longest = int(lengths[self._columns.with_knowledge].max())
        if longest > self._exact_length:
            raise ValueError(
                f"K and x have {longest} tokens together, and beyond {self._exact_length} this decoder changes the "
                "rotation of all positions (longrope); prepare shorter documents apart, write less, or use "
                "encoder='reader'."
            )

    def _make_wrapper(self, number: int, states: Tensor) -> AttentionWrapper | None:
        """Return the wrapper for the attention of encoder ``number``'s layer, which reads ``states`` [b, T, W] of x."""
        slot_attention = self._slot_attention
        if slot_attention is None:
            return None
        rows = len(slot_attention.columns.knowledge.mask)
        attend = partial(slot_attention.attend, self._slots[rows][number])
        if not self._mlp_weights:
            return attend

        def attend_and_add(*args: Any, **options: Any) -> tuple[Tensor, Any]:
            output, weights = attend(*args, **options)
            weights_of_mlp = self._weights_on(output.device, number)
            self._mlp_outputs[number] = self._encoder.mlp_output(weights_of_mlp, states, output.flatten(2))
            return output, weights

        return attend_and_add

    def _weights_on(self, device: torch.device, number: int) -> Sequence[Tensor]:
        """Return the weights of an encoder's MLP on the device of its layer; they are copied there once a call."""
        weights = self._moved_weights.get(number) or self._mlp_weights[number]
        if weights[0].device == device:
            return weights
        moved = [weight.to(device) for weight in weights]
        if not torch.is_grad_enabled():  # a checkpointed block must compute the same twice
            self._moved_weights[number] = moved
        return moved

    def _add_mlp_output(self, number: int, _module: nn.Module, _args: Any, _kwargs: Any, output: Any) -> Any:
        """Add what the MLP of encoder ``number`` adds after the attention."""
        if self._slot_attention is None or number not in self._mlp_outputs:
            return None
        states, columns = first_tensor(output), self._slot_attention.columns
        difference = self._mlp_outputs.pop(number).to(states)
        if not columns.all_receive:
            difference = keep_where(columns.receives, difference, difference)
        return with_first(output, states + difference.reshape(states.shape))
