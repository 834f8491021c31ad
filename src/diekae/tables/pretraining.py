"""The difference stage alone (paper, section 3.2): how each layer's loss falls.

Figure 4 draws it, and table 5 chooses layers by it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from diekae.config import DiekaeConfig, resolve_layers
from diekae.data.prompt import Prompt, collate, to_device
from diekae.differences import collect
from diekae.evaluation.methods import fit
from diekae.inject.hookpoints import find_blocks, find_hookpoints
from diekae.inject.hooks import frozen
from diekae.tables.augment import cost, read_log, training_work
from diekae.tables.cells import Cell, Result
from diekae.tables.lab import Lab

PREFIX = "eval_unexplained/layer_"
"""How the trainer names a layer's unexplained share on the validation examples."""


def pretraining(lab: Lab, train: Sequence[Prompt], validation: Sequence[Prompt], config: DiekaeConfig) -> Cell:
    """Return the cell of one run on differences; its result has ``log``, ``cost`` and ``squares`` by layer.

    Args:
        lab: Where.
        train: To learn from.
        validation: What the losses are of.
        config: What the bank is.
    """
    task = lab.task(train, validation, config=config)

    def measure() -> Result:
        found = fit("ours", task)
        squares = mean_squares(lab, validation, config)
        return {"log": read_log(task.place("ours")), "cost": cost(found), "squares": squares}

    return Cell("pretraining", {**lab.task_settings(task), "method": "ours"}, training_work("ours", task), measure)


def mean_squares(lab: Lab, prompts: Sequence[Prompt], config: DiekaeConfig) -> dict[str, float]:
    """Return the mean square of each layer's differences: the loss of an encoder that says nothing."""
    layers = resolve_layers(config.layers, len(find_blocks(lab.decoder)))
    points = find_hookpoints(lab.decoder, layers, config.site)
    total, count = torch.zeros(len(layers), dtype=torch.float64), 0
    with frozen(lab.decoder):
        for start in range(0, len(prompts), lab.plan.batch_size):
            rows = prompts[start : start + lab.plan.batch_size]
            batch = to_device(collate(rows, scope=config.scope, anchor=config.anchor), lab.decoder.device)
            found = collect(lab.decoder, points, batch, kind=config.difference)
            kept = found.targets.float()[:, found.receives]
            total += kept.square().mean(-1).sum(1).double().cpu()
            count += kept.shape[1]
    return {str(layer): float(value) / count for layer, value in zip(layers, total, strict=True)}


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
