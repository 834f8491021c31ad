"""The difference stage alone (paper, section 3.2): how the loss of each layer falls.

Figure 4 draws it, and table 5 chooses layers by it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from diekae.config import DiekaeConfig, resolve_layers
from diekae.data.batch import collate, to_device
from diekae.data.prompt import Prompt
from diekae.inject.hookpoints import find_blocks, find_hookpoints
from diekae.inject.hooks import frozen
from diekae.training.differences import collect
from diekae_research.cells import Cell, Result, read_log
from diekae_research.methods import fit
from diekae_research.tables.lab import Lab

PREFIX = "eval_unexplained/layer_"
"""Prefix of a layer's unexplained share in the trainer's log."""


class DifferenceSizes(NamedTuple):
    """The size of the differences by layer, in the decoder's own units."""

    squares: dict[str, float]
    """Mean square: the loss of an encoder whose output is zero."""
    variances: dict[str, float]
    """Mean square about their own mean: the whole that an unexplained share refers to."""


def pretraining(lab: Lab, train: Sequence[Prompt], validation: Sequence[Prompt], config: DiekaeConfig) -> Cell:
    """Return the cell of one run on differences.

    Its result has ``log``, ``cost``, ``squares`` and ``variances``. The validation examples give the losses.
    """
    task = lab.task(train, validation, config=config)

    def measure() -> Result:
        fitted = fit("ours", task)
        sizes = measure_sizes(lab, validation, config)
        return {"log": read_log(task.place("ours")), "cost": fitted.cost.to_dict(), **sizes._asdict()}

    return Cell("pretraining", lab.settings("ours", task), measure)


def measure_sizes(lab: Lab, prompts: Sequence[Prompt], config: DiekaeConfig) -> DifferenceSizes:
    """Measure the differences of some prompts."""
    layers = resolve_layers(config.layers, len(find_blocks(lab.decoder)))
    points = find_hookpoints(lab.decoder, layers, config.site)
    squares, sums, count = torch.zeros(len(layers), dtype=torch.float64), torch.zeros(1, dtype=torch.float64), 0
    with frozen(lab.decoder):
        for start in range(0, len(prompts), lab.plan.batch_size):
            rows = prompts[start : start + lab.plan.batch_size]
            batch = to_device(collate(rows, scope=config.scope, anchor=config.anchor), lab.decoder.device)
            collected = collect(lab.decoder, points, batch, kind=config.difference)
            targets = collected.targets[:, collected.receives].double().cpu()
            squares, sums = squares + targets.square().mean(-1).sum(1), sums + targets.sum(1)
            count += targets.shape[1]
    means = squares / count
    variances = means - (sums / count).square().mean(-1)
    names = [str(layer) for layer in layers]
    return DifferenceSizes(*(dict(zip(names, values.tolist(), strict=True)) for values in (means, variances)))


def shares(log: Sequence[Mapping[str, float]]) -> dict[int, list[tuple[float, float]]]:
    """Return each layer's (step, unexplained share) on the validation examples."""
    by_layer: dict[int, list[tuple[float, float]]] = {}
    for line in log:
        for name, value in line.items():
            layer = name.removeprefix(PREFIX)
            if name.startswith(PREFIX) and layer.isdigit():
                by_layer.setdefault(int(layer), []).append((line["step"], value))
    return by_layer


def last_shares(log: Sequence[Mapping[str, float]]) -> dict[int, float]:
    """Return each layer's unexplained share at the end."""
    return {layer: points[-1][1] for layer, points in shares(log).items()}
