"""The NLL of targets when x and y see K's keys and values in some layers only.

Any causal decoder in which tokens meet only in attention. No bank, no training, no gradients.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache, PreTrainedModel

from diekae.data.prompt import Prompt
from diekae.inject.hookpoints import find_blocks
from diekae.inject.hooks import contiguous_head
from diekae.inject.visibility import hiding
from diekae.placement import input_device
from diekae.progress import Progress, silent

Layers = tuple[int, ...]
BATCH = 16
"""Settings that share a forward, one row each."""


@torch.no_grad()
def visible_nll(
    decoder: PreTrainedModel,
    prompts: Sequence[Prompt],
    settings: Sequence[Layers],
    *,
    knowledge: bool = True,
    progress: Progress = silent,
) -> list[float]:
    """Return the NLL in nats per target token for each setting.

    K is read once for each example, because the visible layers do not change its keys and values.

    Args:
        decoder: Any causal decoder in which tokens meet only in attention.
        prompts: Examples.
        settings: For each, the layers in which K is visible.
        knowledge: False leaves K out: D(x).
        progress: Called after each example.
    """
    totals = torch.zeros(len(settings), dtype=torch.float64)
    for number, prompt in enumerate(prompts, start=1):
        totals += torch.tensor(_target_nll(decoder, prompt, settings, knowledge), dtype=torch.float64)
        progress("layers where K is visible", number, len(prompts))
    nll: list[float] = (totals / count_tokens(prompts)).tolist()
    return nll


def count_tokens(prompts: Sequence[Prompt]) -> int:
    """Return the number of target tokens."""
    return sum(len(prompt.target) for prompt in prompts)


def _target_nll(decoder: PreTrainedModel, prompt: Prompt, settings: Sequence[Layers], knowledge: bool) -> list[float]:
    """Return the summed NLL of one target, in nats, for each setting."""
    prefix = prompt.anchor + (prompt.knowledge if knowledge else ())
    rest = _ids(decoder, prompt.input + prompt.target[:-1])
    labels = _ids(decoder, prompt.target)[0]
    # Built without the decoder's configuration: with sliding windows it would drop columns that the masks count.
    cache = DynamicCache()
    decoder(input_ids=_ids(decoder, prefix), past_key_values=cache, use_cache=True, logits_to_keep=1)
    columns = torch.zeros(rest.shape[1], len(prefix) + rest.shape[1], dtype=torch.bool, device=rest.device)
    columns[:, len(prompt.anchor) : len(prefix)] = True
    nll: list[float] = []
    for start in range(0, len(settings), BATCH):
        batch = settings[start : start + BATCH]
        copied = copy.deepcopy(cache)
        copied.batch_repeat_interleave(len(batch))
        hidden = _hidden(columns, batch, len(find_blocks(decoder)))
        with hiding(decoder, hidden), contiguous_head(decoder):
            output = decoder(
                input_ids=rest.expand(len(batch), -1),
                past_key_values=copied,
                use_cache=True,
                logits_to_keep=len(labels),
            )
        logits = output.logits[:, -len(labels) :].float().transpose(1, 2)
        nll += F.cross_entropy(logits, labels.expand(len(batch), -1), reduction="none").sum(1).tolist()
    return nll


def _hidden(columns: Tensor, settings: Sequence[Layers], depth: int) -> dict[int, Tensor]:
    """Return by layer the columns that each setting hides, bool [settings, rows, columns]."""
    hidden = {}
    for layer in range(depth):
        hides = torch.tensor([layer not in visible for visible in settings], device=columns.device)
        if hides.any():
            hidden[layer] = columns & hides[:, None, None]
    return hidden


def _ids(decoder: PreTrainedModel, tokens: Sequence[int]) -> Tensor:
    return torch.tensor([tokens], device=input_device(decoder))
