"""Which layers of a decoder read the knowledge: K is visible to x in some layers only (design, section 4).

Layers are chosen on one half of the examples and reported on the other, because the best of many choices looks better
on the examples that chose it than it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from transformers import PreTrainedModel

from diekae.data.prompt import Prompt, truncate_knowledge
from diekae.data.splits import halves
from diekae.evaluation.metrics import Scores
from diekae.evaluation.visible_layers import Layers, count_tokens, visible_nll
from diekae.fingerprint import window
from diekae.inject.hookpoints import find_blocks
from diekae.inject.hooks import frozen
from diekae.inject.visibility import check_masks
from diekae.progress import Progress, silent


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
