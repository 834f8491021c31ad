"""Whether a decoder can be read exactly is seen by doing it: six tokens in the prompt, and the same six as slots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from diekae.encoders import MemoryBatch
from diekae.inject.attention import Attend, AttentionSite, Read, reading
from diekae.inject.hookpoints import stack_of
from diekae.inject.slots import Columns, Slots

KNOWN, ASKED = 6, 5
"""Tokens of K and of x, behind an anchor of one token."""
SHARE, ROUNDING = 0.05, 64
"""Most that may be off: a share of what K changes, and some roundings of the largest state."""


@torch.no_grad()
def check_exact(decoder: PreTrainedModel, sites: Sequence[AttentionSite]) -> None:
    """Compare the last states of x with K in the prompt and with K as slots of all layers.

    Raises:
        ValueError: They differ by more than rounding: tokens meet elsewhere than in attention, or positions are not
            relative.
    """
    if decoder.device.type == "meta":
        return
    vocabulary = int(decoder.get_input_embeddings().weight.shape[0])  # type: ignore[index]
    ids = torch.linspace(vocabulary // 10, vocabulary // 2, 1 + KNOWN + ASKED, device=decoder.device).long()[None]
    x = torch.cat([ids[:, :1], ids[:, 1 + KNOWN :]], dim=1)
    try:
        prompted = _states(decoder, ids)[:, 1 + KNOWN :]
        bare = _states(decoder, x)[:, 1:]
        read = _read(decoder, sites, ids[:, : 1 + KNOWN], x)[:, 1:]
    except (IndexError, RuntimeError, TypeError) as error:
        raise ValueError(_refusal(decoder, f"it does not run with K before position 0 ({error})")) from error
    wrong, change = float((read - prompted).abs().max()), float((prompted - bare).abs().max())
    limit = SHARE * change + ROUNDING * torch.finfo(decoder.dtype).eps * float(prompted.abs().max())
    if not wrong <= limit:
        raise ValueError(
            _refusal(
                decoder,
                f"of six tokens of K its states are off by {wrong:.2g}, where K changes them by {change:.2g}; its "
                "positions may be learned, or its tokens meet outside attention",
            )
        )


def _refusal(decoder: PreTrainedModel, why: str) -> str:
    return f"encoder='attention' cannot read exactly with {type(decoder).__name__}: {why}. Use encoder='reader'."


def _states(decoder: PreTrainedModel, ids: Tensor, **options: Any) -> Tensor:
    states: Tensor = stack_of(decoder)(input_ids=ids, use_cache=False, **options)[0].float()
    return states


def _read(decoder: PreTrainedModel, sites: Sequence[AttentionSite], known: Tensor, x: Tensor) -> Tensor:
    """Run x with anchor and K as slots of all layers."""
    modules = {number: site.module for number, site in enumerate(sites)}
    keys, values = [torch.empty(0)] * len(sites), [torch.empty(0)] * len(sites)

    def keep(number: int, _states: Tensor) -> Read:
        def read(
            own: Attend, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *rest: Any, **options: Any
        ) -> tuple[Tensor, Any]:
            keys[number], values[number] = key.transpose(1, 2), value.transpose(1, 2)
            return own(module, query, key, value, *rest, **options)

        return read

    places = torch.arange(known.shape[1], device=x.device)[None] - (known.shape[1] - 1)
    with reading(modules, keep):
        _states(decoder, known, position_ids=places)
    tensors: Any = {"keys": keys, "values": values}
    memory = MemoryBatch(tensors, torch.ones_like(known, dtype=torch.bool), places[:, -1], True, places)
    receives = torch.ones_like(x, dtype=torch.bool)
    receives[:, 0] = False
    stands = torch.arange(x.shape[1], device=x.device)[None]
    columns = Columns(memory, receives, stands, ~receives, 1, x.shape[1], "behind")

    def hand(number: int, _states: Tensor) -> Read:
        slots = Slots(memory, number)
        return lambda *args, **options: columns.read(slots, *args, **options)

    with reading(modules, hand):
        return _states(decoder, x)
