"""The difference stage alone (paper, section 3.2): how each layer's loss falls.

Figure 4 draws it, and table 5 chooses layers by it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from diekae.config import DiekaeConfig, resolve_layers
from diekae.data.prompt import Prompt, collate, to_device
from diekae.differences import collect
from diekae.inject.hookpoints import find_blocks, find_hookpoints
from diekae.inject.hooks import frozen
from diekae_research.methods import fit
from diekae_research.tables.augment import cost, read_log, training_work
from diekae_research.tables.cells import Cell, Result
from diekae_research.tables.lab import Lab

PREFIX = "eval_unexplained/layer_"
"""How the trainer names a layer's unexplained share on the validation examples."""


def pretraining(lab: Lab, train: Sequence[Prompt], validation: Sequence[Prompt], config: DiekaeConfig) -> Cell:
    """Return the cell of one run on differences; its result has ``log``, ``cost``, ``squares`` and ``variances``.

    Args:
        lab: Where.
        train: To learn from.
        validation: What the losses are of.
        config: What the bank is.
    """
    task = lab.task(train, validation, config=config)

    def measure() -> Result:
        found = fit("ours", task)
        sizes = measure_sizes(lab, validation, config)
        return {"log": read_log(task.place("ours")), "cost": cost(found), **sizes._asdict()}

    return Cell("pretraining", lab.settings("ours", task), training_work("ours", task), measure)


class Sizes(NamedTuple):
    """How large the differences of each layer are, by layer, in the decoder's own units."""

    squares: dict[str, float]
    """Mean square: the loss of an encoder that says nothing."""
    variances: dict[str, float]
    """Mean square about their own mean: what an unexplained share is a share of."""


def measure_sizes(lab: Lab, prompts: Sequence[Prompt], config: DiekaeConfig) -> Sizes:
    """Measure the differences of some prompts."""
    layers = resolve_layers(config.layers, len(find_blocks(lab.decoder)))
    points = find_hookpoints(lab.decoder, layers, config.site)
    squares, sums, count = torch.zeros(len(layers), dtype=torch.float64), torch.zeros(1, dtype=torch.float64), 0
    with frozen(lab.decoder):
        for start in range(0, len(prompts), lab.plan.batch_size):
            rows = prompts[start : start + lab.plan.batch_size]
            batch = to_device(collate(rows, scope=config.scope, anchor=config.anchor), lab.decoder.device)
            found = collect(lab.decoder, points, batch, kind=config.difference)
            kept = found.targets[:, found.receives].double().cpu()
            squares, sums = squares + kept.square().mean(-1).sum(1), sums + kept.sum(1)
            count += kept.shape[1]
    variances = squares / count - (sums / count).square().mean(-1)
    by_layer = [dict(zip(map(str, layers), each.tolist(), strict=True)) for each in (squares / count, variances)]
    return Sizes(*by_layer)


def shares(log: Sequence[Mapping[str, float]]) -> dict[int, list[tuple[float, float]]]:
    """Return each layer's (step, unexplained share) on validation."""
    found: dict[int, list[tuple[float, float]]] = {}
    for line in log:
        for name, value in line.items():
            if name.startswith(PREFIX) and name.removeprefix(PREFIX).isdigit():
                found.setdefault(int(name.removeprefix(PREFIX)), []).append((line["step"], value))
    return found


def last_shares(log: Sequence[Mapping[str, float]]) -> dict[int, float]:
    """Return each layer's unexplained share at the end."""
    return {layer: points[-1][1] for layer, points in shares(log).items()}
