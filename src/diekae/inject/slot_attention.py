"""The decoder's attention over K's slots and x's keys, in one forward.

Slots are joined to the layer's keys, and the decoder's own attention runs over both. So whatever it does to scores
(soft caps, sinks, scaling) applies to slots too. Columns that receive nothing keep the output of the decoder's own
call.

Shapes: B rows, a slots of the anchor, S slots of K, T queries, C keys of x (cached ones among them), H query heads,
G key heads, d head size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from diekae.encoders.partial_attention import additive_mask
from diekae.inject.attention_interface import AttentionFunction
from diekae.inject.slot_masks import ForwardColumns, SlotMasks
from diekae.inject.slots import Slots, Watch

_OWN_TREATMENT = ("position_bias", "softcap", "cache")
"""Options with which Transformers' function does more than call the kernel."""


class SlotAttention:
    """Runs the attention of any layer over K's slots and x's keys; made once for each forward."""

    def __init__(self, columns: ForwardColumns, watch: Watch | None = None) -> None:
        """Prepare for a forward; ``watch`` is called with the attention that K's slots get."""
        self.columns, self._watch = columns, watch
        self._masks = {columns.receives.device: SlotMasks(columns)}

    def attend(
        self,
        slots: Slots,
        attention: AttentionFunction,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        *rest: Any,
        **options: Any,
    ) -> tuple[Tensor, Any]:
        """Attend from the queries of x to K's slots and x's keys.

        Args:
            slots: Of this layer.
            attention: The decoder's own attention function.
            module: Its other arguments are as for any :data:`diekae.inject.attention_interface.AttentionWrapper`.
            query: [B, H, T, d].
            key: [B, G, C, d].
            value: [B, G, C, d].
            mask: The layer's own mask over the C keys.
            *rest: For ``attention``.
            **options: For ``attention``.
        """
        if query.device not in self._masks:  # the decoder is spread over several devices
            self._masks[query.device] = SlotMasks(self.columns.to(query.device))
        masks = self._masks[query.device]
        columns = masks.columns
        # The cache of a sliding window holds only the last columns of x.
        first = max(0, columns.stop - key.shape[2])
        keys, values = slots.joined(key, value, growing=columns.growing)
        share = 1 if self._watch else _foldable_heads(attention, query, key, mask, rest, options)
        of_x = range(first, first + key.shape[2])
        joined_mask = masks.get(mask, options.get("sliding_window"), query, of_x, share)
        if share > 1:
            output, weights = _attend_folded(query, keys, values, joined_mask, options)
        else:
            output, weights = attention(module, query, keys, values, joined_mask, *rest, **options)
        if self._watch is not None:
            shown = _attention_weights(query, keys, joined_mask, options.get("scaling"))
            shown = shown[..., slots.length - slots.count : slots.length]
            shown = shown * columns.receives[:, None, :, None]
            self._watch(slots.number, shown.to(self.columns.receives.device))
        if columns.others:
            own = attention(module, query, key, value, mask, *rest, **options)[0]
            output = torch.where(columns.receives[:, :, None, None], output, own)
        return output, weights


def _foldable_heads(
    attention: AttentionFunction, query: Tensor, key: Tensor, mask: Tensor | None, rest: Any, options: dict[str, Any]
) -> int:
    """Return how many query heads can be folded into one; 1 where their masks may differ, or nothing is gained."""
    own = mask is not None and mask.shape[1] > 1 or any(options.get(name) is not None for name in _OWN_TREATMENT)
    return query.shape[1] // key.shape[1] if attention is sdpa_attention_forward and not own and not rest else 1


def _attend_folded(
    query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, options: dict[str, Any]
) -> tuple[Tensor, None]:
    """Attend as ``sdpa`` does, with the query heads of each key head as one head of H / G · T queries; so is the mask.

    Otherwise every key would be repeated for each head that shares it, which takes most of the time for a long K. The
    kernel is called directly, because Transformers' function would copy the output once more for each layer and token.
    """
    rows, heads, length, size = query.shape
    folded = query.reshape(rows, keys.shape[1], -1, size)
    dropout, scale = options.get("dropout", 0.0), options.get("scaling")
    output = F.scaled_dot_product_attention(folded, keys, values, attn_mask=mask, dropout_p=dropout, scale=scale)
    return output.view(rows, heads, length, -1).transpose(1, 2), None


def _attention_weights(query: Tensor, keys: Tensor, mask: Tensor, scaling: float | None) -> Tensor:
    """Return the weights of attention, [B, H, T, keys]; without soft caps and sinks, which few decoders have."""
    keys = keys.repeat_interleave(query.shape[1] // keys.shape[1], 1)
    scores = query.float() @ keys.float().transpose(2, 3) * (scaling or query.shape[-1] ** -0.5)
    return (scores + additive_mask(mask, torch.float32)).softmax(-1)
