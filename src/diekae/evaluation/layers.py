"""Which layers read the knowledge: x attends to K's true keys and values in some layers only (design, section 4).

Forward passes alone, of any decoder on any data: no bank, no training, no gradients. Layers are chosen on one half of
the examples and reported on the other, for the best of many choices looks better on what chose it than it is.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache, PreTrainedModel

from diekae.data.prompt import Prompt, truncate_knowledge
from diekae.data.splits import halves
from diekae.evaluation.metrics import Scores
from diekae.fingerprint import window
from diekae.inject.hookpoints import find_blocks
from diekae.inject.hooks import frozen
from diekae.inject.visibility import check_masks, hiding
from diekae.progress import Progress, silent

Layers = tuple[int, ...]
_TOGETHER = 16
"""Settings that share a forward, a row each."""


class Gap(NamedTuple):
    """What K is worth to the decoder, in nats per target token."""

    bare: float
    """D(x)."""
    prompted: float
    """D(K, x): K visible in all layers."""

    def figures(self, layers: Layers, nll: float) -> dict[str, Any]:
        """Return what is reported of K being visible in some layers."""
        return {"layers": list(layers), "nll": nll, "recovered": Scores(self.bare, self.prompted, nll).recovered}


def measure_layers(
    decoder: PreTrainedModel,
    prompts: Sequence[Prompt],
    *,
    choose: int = 8,
    width: int | None = None,
    max_knowledge: int | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Measure how much of the gap is closed when K is visible to x and y in some layers only.

    Args:
        decoder: Any causal decoder in which tokens meet in attention alone.
        prompts: Examples with knowledge; four dozen show the layers that matter. A hash of its knowledge decides which
            half an example is in.
        choose: Layers to choose greedily: each is the one that, visible beside those before it, closes most.
        width: Layers of a window, a fifth of the decoder if None; windows overlap by half.
        max_knowledge: Longest K in tokens.
        progress: Told which part is measured and how far it is.

    Returns:
        Of the half that is reported: ``n``, ``tokens``, the NLL of D(x) and D(K, x), and with the layers, NLL and
        ``recovered`` of each: ``sets`` (all, none, halves, every second and third), ``windows``, ``hidden`` (each layer
        hidden alone, named ``layer``), ``chosen`` (one entry a step, the layers in the order of choice). Of the half
        that chose: ``chosen_on``, with ``n``, ``tokens``, ``nll`` and ``steps``, the same choice on what chose it.

    Raises:
        ValueError: There is no example with knowledge, a number makes no sense, masks cannot be exchanged, or the
            examples cannot be halved.
    """
    depth = len(find_blocks(decoder))
    width = width or max(1, depth // 5)
    if not prompts or not all(prompt.knowledge for prompt in prompts):
        raise ValueError("measuring layers needs examples, each with knowledge; at least one has none.")
    if not 1 <= choose <= depth or not 1 <= width <= depth:
        raise ValueError(f"choose={choose} and width={width} must be from 1 to the decoder's {depth} layers.")
    chooses, reports = halves(truncate_knowledge(prompts, max_knowledge, window(decoder)))
    sets, windows = _sets(depth), _windows(depth, width)
    everything = tuple(range(depth))
    alone = [tuple(layer for layer in everything if layer != missing) for missing in everything]
    with frozen(decoder):
        check_masks(decoder)
        first = _gap(decoder, chooses)
        steps = _choose(decoder, chooses, depth, choose, first, progress)
        settings = [*sets.values(), *windows, *alone, *(tuple(step["layers"]) for step in steps)]
        found = visible_nll(decoder, reports, settings, progress=progress)
        gap = _gap(decoder, reports)
    figures = iter([gap.figures(*entry) for entry in zip(settings, found, strict=True)])
    return {
        **_about(reports, gap),
        "sets": {name: next(figures) for name in sets},
        "windows": [next(figures) for _ in windows],
        "hidden": [{"layer": layer, **next(figures)} for layer in everything],
        "chosen": list(figures),
        "chosen_on": {**_about(chooses, first), "steps": steps},
    }


def _gap(decoder: PreTrainedModel, prompts: Sequence[Prompt]) -> Gap:
    """Measure what K is worth."""
    everything = [tuple(range(len(find_blocks(decoder))))]
    bare = sum(_target_nll(decoder, prompt, everything, known=False)[0] for prompt in prompts)
    return Gap(bare / _tokens(prompts), visible_nll(decoder, prompts, everything)[0])


def _about(prompts: Sequence[Prompt], gap: Gap) -> dict[str, Any]:
    return {"n": len(prompts), "tokens": _tokens(prompts), "nll": gap._asdict()}


def _tokens(prompts: Sequence[Prompt]) -> int:
    return sum(len(prompt.target) for prompt in prompts)


def _sets(depth: int) -> dict[str, Layers]:
    """Return the sets of layers that every decoder is measured with."""
    every, middle = tuple(range(depth)), depth // 2
    return {
        "all": every,
        "none": (),
        "first half": every[:middle],
        "second half": every[middle:],
        "every 2nd": every[1::2],
        "every 3rd": every[2::3],
    }


def _windows(depth: int, width: int) -> list[Layers]:
    """Return windows of neighbouring layers that overlap by half and reach the last layer."""
    starts = [*range(0, depth - width, max(1, width // 2)), depth - width]
    return [tuple(range(start, start + width)) for start in starts]


def _choose(
    decoder: PreTrainedModel, prompts: Sequence[Prompt], depth: int, number: int, gap: Gap, progress: Progress
) -> list[dict[str, Any]]:
    """Add layer after layer, each the one that closes most beside those before it."""
    layers, steps = Layers(), []
    for step in range(number):
        candidates = [(*layers, layer) for layer in range(depth) if layer not in layers]
        found = visible_nll(decoder, prompts, candidates)
        nll, layers = min(zip(found, candidates, strict=True))
        steps.append(gap.figures(layers, nll))
        progress("choosing layers", step + 1, number)
    return steps


@torch.no_grad()
def visible_nll(
    decoder: PreTrainedModel,
    prompts: Sequence[Prompt],
    settings: Sequence[Layers],
    progress: Progress = silent,
) -> list[float]:
    """Return the NLL in nats per target token with K visible in the layers of each setting.

    K is read once an example and its keys and values are kept, for no choice of layers changes them.
    """
    totals = torch.zeros(len(settings), dtype=torch.float64)
    for number, prompt in enumerate(prompts, start=1):
        totals += torch.tensor(_target_nll(decoder, prompt, settings), dtype=torch.float64)
        progress("layers where K is visible", number, len(prompts))
    found: list[float] = (totals / _tokens(prompts)).tolist()
    return found


@torch.no_grad()
def _target_nll(
    decoder: PreTrainedModel, prompt: Prompt, settings: Sequence[Layers], known: bool = True
) -> list[float]:
    """Return the summed NLL of one target, in nats, for each setting; of D(x) where K is not known."""
    start = prompt.anchor + (prompt.knowledge if known else ())
    rest = _ids(decoder, prompt.input + prompt.target[:-1])
    labels = _ids(decoder, prompt.target)[0]
    # Not made for the decoder's configuration: sliding windows would forget columns that the masks still count.
    cache = DynamicCache()
    decoder(input_ids=_ids(decoder, start), past_key_values=cache, use_cache=True, logits_to_keep=1)
    columns = torch.zeros(rest.shape[1], len(start) + rest.shape[1], dtype=torch.bool, device=rest.device)
    columns[:, len(prompt.anchor) : len(start)] = True
    found: list[float] = []
    for first in range(0, len(settings), _TOGETHER):
        part = settings[first : first + _TOGETHER]
        kept = copy.deepcopy(cache)
        kept.batch_repeat_interleave(len(part))
        with hiding(decoder, _hidden(columns, part, len(find_blocks(decoder)))):
            out = decoder(
                input_ids=rest.expand(len(part), -1), past_key_values=kept, use_cache=True, logits_to_keep=len(labels)
            )
        logits = out.logits[:, -len(labels) :].float().transpose(1, 2)
        found += F.cross_entropy(logits, labels.expand(len(part), -1), reduction="none").sum(1).tolist()
    return found


def _hidden(columns: Tensor, settings: Sequence[Layers], depth: int) -> dict[int, Tensor]:
    """Return the columns that each setting hides, bool [settings, rows, columns], by layer."""
    found = {}
    for layer in range(depth):
        hides = torch.tensor([layer not in visible for visible in settings], device=columns.device)
        if hides.any():
            found[layer] = columns & hides[:, None, None]
    return found


def _ids(decoder: PreTrainedModel, tokens: Sequence[int]) -> Tensor:
    return torch.tensor([tokens], device=decoder.device)
