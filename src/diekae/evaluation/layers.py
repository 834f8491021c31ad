"""Which layers of a decoder read the knowledge: K is visible to x and y in some layers only (design, section 4).

For any causal decoder in which tokens meet only in attention. No bank, no training, no gradients.

Layers are chosen on one half of the examples and reported on the other, because the best of many choices looks better
on the examples that chose it than it is.
"""

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
from diekae.inject.hooks import contiguous_head, frozen
from diekae.inject.visibility import check_masks, hiding
from diekae.placement import input_device
from diekae.progress import Progress, silent

Layers = tuple[int, ...]
BATCH = 16
"""Settings that share a forward, one row each."""


class Gap(NamedTuple):
    """The NLL without and with K, in nats per target token."""

    bare: float
    """D(x)."""
    prompted: float
    """D(K, x): K visible in all layers."""

    def figures(self, layers: Layers, nll: float) -> dict[str, Any]:
        """Return what is reported for K visible in some layers."""
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
        decoder: Any causal decoder in which tokens meet only in attention.
        prompts: Examples with knowledge; 48 show the layers that matter. A hash of K puts each into one half.
        choose: Layers to choose greedily: each closes most of the gap together with those before it.
        width: Layers of a window, a fifth of the decoder if None; windows overlap by half.
        max_knowledge: Longest K in tokens.
        progress: Called as the work goes on.

    Returns:
        Of the reported half: ``n``, ``tokens``, ``nll`` of D(x) and D(K, x), and with layers, NLL and ``recovered`` of
        each entry: ``sets`` (all, none, halves, every second and third), ``windows``, ``hidden`` (each layer hidden
        alone, named ``layer``), ``chosen`` (one entry a step, layers in the order of choice). Of the other half:
        ``chosen_on``, with ``n``, ``tokens``, ``nll``, and ``steps``, the same choice measured on what chose it.

    Raises:
        ValueError: An example has no knowledge, a number is out of range, the decoder's masks cannot be exchanged, or
            the examples cannot be halved.
    """
    depth = len(find_blocks(decoder))
    width = width or max(1, depth // 5)
    _check(prompts, depth, choose, width)
    choosing, reported = halves(truncate_knowledge(prompts, max_knowledge, window(decoder)))
    with frozen(decoder):
        check_masks(decoder)
        gap = _gap(decoder, choosing)
        steps = _choose(decoder, choosing, depth, choose, gap, progress)
        figures = _report(decoder, reported, depth, width, [tuple(step["layers"]) for step in steps], progress)
    return {**figures, "chosen_on": {**_about(choosing, gap), "steps": steps}}


def _check(prompts: Sequence[Prompt], depth: int, choose: int, width: int) -> None:
    if not prompts or not all(prompt.knowledge for prompt in prompts):
        raise ValueError("measuring layers needs examples, each with knowledge; at least one has none.")
    if not 1 <= choose <= depth or not 1 <= width <= depth:
        raise ValueError(f"choose={choose} and width={width} must be from 1 to the decoder's {depth} layers.")


def _report(
    decoder: PreTrainedModel,
    prompts: Sequence[Prompt],
    depth: int,
    width: int,
    chosen: Sequence[Layers],
    progress: Progress,
) -> dict[str, Any]:
    """Measure everything that is reported, on one half."""
    sets, windows = _sets(depth), _windows(depth, width)
    all_but_one = [tuple(layer for layer in range(depth) if layer != hidden) for hidden in range(depth)]
    settings = [*sets.values(), *windows, *all_but_one, *chosen]
    nll = visible_nll(decoder, prompts, settings, progress=progress)
    gap = _gap(decoder, prompts)
    figures = iter([gap.figures(*entry) for entry in zip(settings, nll, strict=True)])
    return {
        **_about(prompts, gap),
        "sets": {name: next(figures) for name in sets},
        "windows": [next(figures) for _ in windows],
        "hidden": [{"layer": layer, **next(figures)} for layer in range(depth)],
        "chosen": list(figures),
    }


def _gap(decoder: PreTrainedModel, prompts: Sequence[Prompt]) -> Gap:
    everywhere = [tuple(range(len(find_blocks(decoder))))]
    bare = visible_nll(decoder, prompts, everywhere, knowledge=False)[0]
    return Gap(bare, visible_nll(decoder, prompts, everywhere)[0])


def _about(prompts: Sequence[Prompt], gap: Gap) -> dict[str, Any]:
    return {"n": len(prompts), "tokens": count_tokens(prompts), "nll": gap._asdict()}


def _sets(depth: int) -> dict[str, Layers]:
    """Return the sets of layers that are measured in every decoder."""
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
    decoder: PreTrainedModel, prompts: Sequence[Prompt], depth: int, count: int, gap: Gap, progress: Progress
) -> list[dict[str, Any]]:
    """Choose layers greedily: each closes most of the gap together with those before it."""
    layers, steps = Layers(), []
    for step in range(count):
        candidates = [(*layers, layer) for layer in range(depth) if layer not in layers]
        nll, layers = min(zip(visible_nll(decoder, prompts, candidates), candidates, strict=True))
        steps.append(gap.figures(layers, nll))
        progress("choosing layers", step + 1, count)
    return steps


@torch.no_grad()
def visible_nll(
    decoder: PreTrainedModel,
    prompts: Sequence[Prompt],
    settings: Sequence[Layers],
    *,
    knowledge: bool = True,
    progress: Progress = silent,
) -> list[float]:
    """Return the NLL in nats per target token for each setting: the layers in which K is visible.

    K is read once for each example, because the visible layers do not change its keys and values. ``knowledge=False``
    leaves K out: D(x).
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
    decoder(input_ids=_ids(decoder, prefix), cache=cache, use_cache=True, logits_to_keep=1)
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
                cache=copied,
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
