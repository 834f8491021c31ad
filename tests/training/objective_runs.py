"""Helpers that run an objective on a tiny model."""

from typing import Any

import pytest
from torch import Tensor, nn

from builders import DEPTH
from diekae.data.batch import collate
from diekae.data.prompt import Prompt
from diekae.inject.hookpoints import find_blocks, first_tensor
from diekae.model import DiekaeModel
from diekae.training.objectives import OBJECTIVES, LossSums

ENCODERS = pytest.mark.parametrize("encoder", ["reader", "token", "attention"])


def layout(model: DiekaeModel, prompts: list[Prompt]) -> Any:
    return collate(prompts, scope=model.config.scope, anchor=model.config.anchor)


def run_objective(model: DiekaeModel, prompts: list[Prompt], name: str = "difference") -> LossSums:
    sums: LossSums = OBJECTIVES[name](model)(**layout(model, prompts))
    return sums


def gradients(model: DiekaeModel) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.bank.named_parameters() if p.grad is not None}


class Runs:
    """Counts the forwards of modules, and notes whether each block's output hung in a graph."""

    def __init__(self, decoder: Any) -> None:
        self.blocks = [0] * DEPTH
        self.graphs: list[list[bool]] = [[] for _ in range(DEPTH)]
        self.outputs: list[list[Tensor]] = [[] for _ in range(DEPTH)]
        self.heads = 0
        for number, block in enumerate(find_blocks(decoder)):
            block.register_forward_hook(self._block(number), always_call=True)
            block.register_forward_pre_hook(self._started(number))
        decoder.get_output_embeddings().register_forward_pre_hook(self._head)

    def _started(self, number: int) -> Any:
        def hook(_module: nn.Module, _args: Any) -> None:
            self.blocks[number] += 1

        return hook

    def _block(self, number: int) -> Any:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            states = first_tensor(output)
            self.graphs[number].append(states.requires_grad)
            if states.requires_grad:
                states.retain_grad()
                self.outputs[number].append(states)

        return hook

    def _head(self, _module: nn.Module, _args: Any) -> None:
        self.heads += 1
