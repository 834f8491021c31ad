"""A trial whether K can be read exactly: six tokens in the prompt, compared with the same six tokens as slots.

Shapes: S tokens of anchor and K, G key heads, d head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from diekae.encoders import KnowledgeBatch
from diekae.fingerprint import quantized_kind
from diekae.inject.attention import AttentionSite
from diekae.inject.attention_interface import (
    AttentionCall,
    AttentionWrapper,
    observe_attention,
    refusal,
    wrap_attention,
)
from diekae.inject.contexts import HookContext
from diekae.inject.hookpoints import probe_ids, stack_of
from diekae.inject.slot_attention import SlotAttention
from diekae.inject.slot_masks import ForwardColumns
from diekae.inject.slots import Slots
from diekae.placement import input_device

KNOWLEDGE_TOKENS, INPUT_TOKENS = 6, 5
"""Tokens of K and of x, after an anchor of one token."""
SHIFT = 9
"""Positions by which keys are shifted to see whether they are rotated. The fastest pair of dimensions rotates by one
radian a position, and ends almost opposite; so rounding hides it least, also where few dimensions are rotated."""
SHARE, ROUNDING = 0.01, 16
"""Largest error, root mean square: a share of what K changes, plus some roundings of the states."""
QUANTISED_DTYPE = torch.bfloat16
"""Type by whose rounding a quantised decoder is judged. Whatever the type of its states, its kernels may compute in
this one, or round the states to 8 bits."""


@torch.no_grad()
def check_exact(decoder: PreTrainedModel, sites: Sequence[AttentionSite]) -> list[AttentionSite]:
    """Compare the last states of x with K in the prompt and with K as slots of all layers.

    Returns:
        The sites; those whose keys are the same at every position are marked as not rotary.

    Raises:
        ValueError: The states differ by more than rounding: tokens meet outside attention, or positions are not
            relative.
    """
    device = input_device(decoder)
    if device.type == "meta":
        return list(sites)
    before = 1 + KNOWLEDGE_TOKENS
    ids = probe_ids(decoder, before + INPUT_TOKENS)
    knowledge_ids, input_ids = ids[:, :before], torch.cat([ids[:, :1], ids[:, before:]], dim=1)
    positions = torch.arange(before, device=ids.device)[None]
    try:
        with _refusing_learned_positions(decoder, ids):
            prompted = _last_states(decoder, ids)[:, before:]
        bare = _last_states(decoder, input_ids)[:, 1:]
        keys, values = _read_slots(decoder, sites, knowledge_ids, positions - KNOWLEDGE_TOKENS)
        keys_elsewhere, _ = _read_slots(decoder, sites, knowledge_ids, positions - KNOWLEDGE_TOKENS + SHIFT)
        tensors: Any = {"keys": keys, "values": values}
        injected = _run_with_slots(decoder, sites, tensors, positions - KNOWLEDGE_TOKENS, input_ids)[:, 1:]
    except (IndexError, RuntimeError, TypeError) as error:
        raise ValueError(refusal(decoder, f"it does not run with K before position 0 ({error})")) from error
    quantised = any(quantized_kind(weight) for weight in decoder.parameters())
    precision = torch.finfo(QUANTISED_DTYPE if quantised else decoder.dtype).eps
    difference, change = _rms(injected - prompted), _rms(prompted - bare)
    if not difference <= SHARE * change + ROUNDING * precision * _rms(prompted):
        raise ValueError(
            refusal(
                decoder,
                f"of six tokens of K its states are off by {difference:.2g}, where K changes them by {change:.2g}; its "
                "positions may not be relative, or its tokens meet outside attention",
            )
        )
    rotary = [
        _rms(a.float() - b.float()) > ROUNDING * precision * _rms(b) for a, b in zip(keys, keys_elsewhere, strict=True)
    ]
    return [replace(site, rotary=depends) for site, depends in zip(sites, rotary, strict=True)]


def _rms(states: Tensor) -> float:
    """Return the root mean square."""
    return float(states.float().square().mean().sqrt())


def _refusing_learned_positions(decoder: PreTrainedModel, ids: Tensor) -> HookContext:
    """Refuse a decoder that looks up embeddings of anything but its tokens: a table has no positions below 0.

    On a GPU, a lookup below 0 would make the device unusable for the process, so it is refused before it happens.
    Inside the block, a run over ``ids`` raises ValueError if the decoder does so.
    """

    def check_lookup(_module: nn.Module, args: Any, kwargs: Any) -> None:
        indices = next(iter((*args, *kwargs.values())), None)
        if not isinstance(indices, Tensor) or indices.shape != ids.shape or not torch.equal(indices.to(ids), ids):
            raise ValueError(refusal(decoder, "its positions are learned"))

    def register(context: HookContext) -> None:
        for module in stack_of(decoder).modules():
            if isinstance(module, nn.Embedding):
                context.add_pre_hook(module, check_lookup)

    return HookContext(register)


def _last_states(decoder: PreTrainedModel, ids: Tensor, **options: Any) -> Tensor:
    """Return the decoder's last hidden states, fp32."""
    states: Tensor = stack_of(decoder)(input_ids=ids, use_cache=False, **options)[0].float()
    return states


def _read_slots(
    decoder: PreTrainedModel, sites: Sequence[AttentionSite], ids: Tensor, positions: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the keys and values of anchor and K in all layers, [1, S, G, d] each, at ``positions`` [1, S]."""
    keys, values = [torch.empty(0)] * len(sites), [torch.empty(0)] * len(sites)

    def store_slots(call: AttentionCall) -> None:
        keys[call.number], values[call.number] = call.key.transpose(1, 2), call.value.transpose(1, 2)

    with observe_attention({number: site.module for number, site in enumerate(sites)}, store_slots):
        _last_states(decoder, ids, position_ids=positions)
    return keys, values


def _run_with_slots(
    decoder: PreTrainedModel, sites: Sequence[AttentionSite], tensors: Any, positions: Tensor, ids: Tensor
) -> Tensor:
    """Run x with anchor and K as slots of all layers; return the last states."""
    mask = torch.ones_like(positions, dtype=torch.bool)
    knowledge = KnowledgeBatch(tensors, mask, positions[:, -1], True, positions)
    receives = torch.ones_like(ids, dtype=torch.bool)
    receives[:, 0] = False
    of_x = torch.arange(ids.shape[1], device=ids.device)[None]
    columns = ForwardColumns(knowledge, receives, of_x, ~receives, ids.shape[1])
    slot_attention = SlotAttention(columns)
    # One by one, because the sizes of layers may differ.
    by_layer = enumerate(zip(tensors["keys"], tensors["values"], strict=True))
    slots = [Slots(n, mask.shape[1], [[part.transpose(1, 2)] for part in parts]) for n, parts in by_layer]

    def make_wrapper(number: int, _states: Tensor) -> AttentionWrapper:
        return partial(slot_attention.attend, slots[number])

    with wrap_attention({number: site.module for number, site in enumerate(sites)}, make_wrapper):
        return _last_states(decoder, ids)
