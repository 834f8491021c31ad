"""Whether a decoder can be read exactly is seen by doing it: six tokens in the prompt, and the same six as slots."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from diekae.encoders import KnowledgeBatch
from diekae.inject.attention import Attend, AttentionSite, Read, reading, refusal
from diekae.inject.hookpoints import stack_of
from diekae.inject.slots import Columns, Slots

KNOWN, ASKED = 6, 5
"""Tokens of K and of x, behind an anchor of one token."""
SHARE, ROUNDING = 0.01, 16
"""Most that may be off, root mean square: a share of what K changes, and some roundings of the states."""


@torch.no_grad()
def check_exact(decoder: PreTrainedModel, sites: Sequence[AttentionSite]) -> list[AttentionSite]:
    """Compare the last states of x with K in the prompt and with K as slots of all layers.

    Returns:
        The sites, those whose keys are the same wherever they stand marked as not turned.

    Raises:
        ValueError: They differ by more than rounding: tokens meet elsewhere than in attention, or positions are not
            relative.
    """
    if decoder.device.type == "meta":
        return list(sites)
    vocabulary = int(decoder.get_input_embeddings().weight.shape[0])  # type: ignore[index]
    ids = torch.linspace(vocabulary // 10, vocabulary // 2, 1 + KNOWN + ASKED, device=decoder.device).long()[None]
    known, x = ids[:, : 1 + KNOWN], torch.cat([ids[:, :1], ids[:, 1 + KNOWN :]], dim=1)
    places = torch.arange(1 + KNOWN, device=ids.device)[None]
    try:
        with _refusing_learned_positions(decoder, ids):
            prompted = _states(decoder, ids)[:, 1 + KNOWN :]
        bare = _states(decoder, x)[:, 1:]
        keys, values = _slots(decoder, sites, known, places - KNOWN)
        elsewhere, _ = _slots(decoder, sites, known, places)
        read = _read(decoder, sites, {"keys": keys, "values": values}, places - KNOWN, x)[:, 1:]
    except (IndexError, RuntimeError, TypeError) as error:
        raise ValueError(refusal(decoder, f"it does not run with K before position 0 ({error})")) from error
    precision = torch.finfo(decoder.dtype).eps
    wrong, change = _size(read - prompted), _size(prompted - bare)
    if not wrong <= SHARE * change + ROUNDING * precision * _size(prompted):
        raise ValueError(
            refusal(
                decoder,
                f"of six tokens of K its states are off by {wrong:.2g}, where K changes them by {change:.2g}; its "
                "positions may not be relative, or its tokens meet outside attention",
            )
        )
    moved = [
        _size(a.float() - b.float()) > ROUNDING * precision * _size(b) for a, b in zip(keys, elsewhere, strict=True)
    ]
    return [replace(site, turned=turned) for site, turned in zip(sites, moved, strict=True)]


def _size(states: Tensor) -> float:
    return float(states.float().square().mean().sqrt())


@contextmanager
def _refusing_learned_positions(decoder: PreTrainedModel, ids: Tensor) -> Iterator[None]:
    """Refuse a decoder that looks up anything but tokens: before position 0 there is nothing to be looked up.

    Asking all the same would end a GPU's context.

    Raises:
        ValueError: It does.
    """

    def look(_module: nn.Module, args: Any, kwargs: Any) -> None:
        given = next(iter((*args, *kwargs.values())), None)
        if not isinstance(given, Tensor) or given.shape != ids.shape or not torch.equal(given.to(ids), ids):
            raise ValueError(refusal(decoder, "its positions are learned"))

    tables = [module for module in stack_of(decoder).modules() if isinstance(module, nn.Embedding)]
    handles = [table.register_forward_pre_hook(look, with_kwargs=True) for table in tables]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _states(decoder: PreTrainedModel, ids: Tensor, **options: Any) -> Tensor:
    states: Tensor = stack_of(decoder)(input_ids=ids, use_cache=False, **options)[0].float()
    return states


def _slots(
    decoder: PreTrainedModel, sites: Sequence[AttentionSite], known: Tensor, places: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """Return keys and values of anchor and K in all layers, [B, S, G, d] each, where they stand at ``places``."""
    keys, values = [torch.empty(0)] * len(sites), [torch.empty(0)] * len(sites)

    def keep(number: int, _states: Tensor) -> Read:
        def read(
            own: Attend, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *rest: Any, **options: Any
        ) -> tuple[Tensor, Any]:
            keys[number], values[number] = key.transpose(1, 2), value.transpose(1, 2)
            return own(module, query, key, value, *rest, **options)

        return read

    with reading({number: site.module for number, site in enumerate(sites)}, keep):
        _states(decoder, known, position_ids=places)
    return keys, values


def _read(decoder: PreTrainedModel, sites: Sequence[AttentionSite], tensors: Any, places: Tensor, x: Tensor) -> Tensor:
    """Run x with anchor and K as slots of all layers."""
    prepared = KnowledgeBatch(tensors, torch.ones_like(places, dtype=torch.bool), places[:, -1], True, places)
    receives = torch.ones_like(x, dtype=torch.bool)
    receives[:, 0] = False
    stands = torch.arange(x.shape[1], device=x.device)[None]
    columns = Columns(prepared, receives, stands, ~receives, 1, x.shape[1], "behind")

    def hand(number: int, _states: Tensor) -> Read:
        slots = Slots(prepared, number)
        return lambda *args, **options: columns.read(slots, *args, **options)

    with reading({number: site.module for number, site in enumerate(sites)}, hand):
        return _states(decoder, x)
