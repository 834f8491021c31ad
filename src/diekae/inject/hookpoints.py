"""Hookpoints: where a decoder's residual stream can be read and changed, found without a table of architectures.

Shapes: T tokens, W decoder width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from diekae.inject.contexts import HookContext
from diekae.placement import input_device

PROBE_TOKENS = 8
"""Tokens of a run that shows how the modules of a decoder work together."""


@dataclass(frozen=True)
class Hookpoint:
    """The place in one decoder block where a difference enters the residual stream."""

    block: nn.Module
    """The decoder block; its input is the residual stream before it."""
    module: nn.Module
    """The module whose output receives the difference."""
    addends: tuple[nn.Module, ...]
    """Modules whose outputs, added to the block's input, make the stream right after the hookpoint; empty where the
    module's own output is the stream."""


def first_tensor(output: Any) -> Tensor:
    """Return the hidden states of a module's output, which some architectures wrap in a tuple."""
    states: Tensor = output[0] if isinstance(output, tuple | list) else output
    return states


def with_first(output: Any, states: Tensor) -> Any:
    """Return a copy of a module's output with other hidden states."""
    return type(output)((states, *output[1:])) if isinstance(output, tuple | list) else states


def input_states(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """Return the hidden states that a block or an attention module is called with."""
    states: Tensor = args[0] if args else kwargs["hidden_states"]
    return states


def probe_ids(decoder: PreTrainedModel, count: int = PROBE_TOKENS) -> Tensor:
    """Return tokens for a trial run, int64 [1, count].

    They are from the middle of the vocabulary: special tokens at its ends carry massive activations, which drown the
    rest.
    """
    vocabulary = int(decoder.get_input_embeddings().weight.shape[0])  # type: ignore[index]
    return torch.linspace(vocabulary // 10, vocabulary // 2, count, device=input_device(decoder)).long()[None]


def stack_of(decoder: PreTrainedModel) -> nn.Module:
    """Return the decoder without its language-model head: the module that the decoder itself calls (OPT nests it)."""
    stack: nn.Module = decoder.get_decoder()
    return stack


def find_blocks(decoder: PreTrainedModel) -> nn.ModuleList:
    """Find the decoder blocks: the outermost ``ModuleList`` that has as many modules as the decoder has layers.

    Raises:
        ValueError: There is none, or more than one.
    """
    config = decoder.config.get_text_config(decoder=True)
    depth = getattr(config, "num_hidden_layers", None)
    lists = {
        name: module
        for name, module in decoder.named_modules()
        if isinstance(module, nn.ModuleList) and (len(module) == depth if depth else len(module) > 1)
    }
    least_nested = min((name.count(".") for name in lists), default=0)
    outermost = [name for name in lists if name.count(".") == least_nested]
    if len(outermost) != 1:
        names = ", ".join(outermost) or "none"
        raise ValueError(
            f"the blocks of {type(decoder).__name__} could not be found: expected one outermost ModuleList of "
            f"num_hidden_layers={depth} modules, found {names}. Is it a *ForCausalLM decoder?"
        )
    return lists[outermost[0]]


def find_hookpoints(decoder: PreTrainedModel, layers: tuple[int, ...], site: str) -> dict[int, Hookpoint]:
    """Find the hookpoint of each layer.

    For the sites ``attention`` and ``mlp``, a run over a few tokens shows which modules' outputs are added to the
    residual stream. Where a norm follows the attention (Gemma), that is not the attention module. In parallel blocks
    (GPT-NeoX, Falcon) both outputs are added at once.

    Args:
        decoder: The decoder.
        layers: Its layers, from 0.
        site: ``block``, ``attention`` or ``mlp``: after which of them the difference is added.

    Raises:
        ValueError: A block does not add its attention and MLP to the stream in a way that can be recognised.
    """
    blocks = find_blocks(decoder)
    if site == "block":
        return {layer: Hookpoint(blocks[layer], blocks[layer], ()) for layer in layers}
    hookpoints = {}
    for layer, (attention, mlp) in _find_addends(decoder, [(layer, blocks[layer]) for layer in layers]).items():
        module, addends = (attention, (attention,)) if site == "attention" else (mlp, (attention, mlp))
        hookpoints[layer] = Hookpoint(blocks[layer], module, addends)
    return hookpoints


class _Recording:
    """The input and output of one block, and the outputs of the modules in it, each fp32 [T, W]."""

    def __init__(self) -> None:
        """Begin with nothing recorded."""
        self.block_input = self.block_output = torch.empty(0)
        self.outputs: list[tuple[nn.Module, Tensor]] = []

    def hook_input(self, _module: nn.Module, args: Any, kwargs: Any) -> None:
        self.block_input = _copy(input_states(args, kwargs))

    def hook_module(self, module: nn.Module, _args: Any, _kwargs: Any, output: Any) -> None:
        states = first_tensor(output)
        if isinstance(states, Tensor) and states.shape[-1] == self.block_input.shape[-1]:
            self.outputs.append((module, _copy(states)))

    def hook_output(self, _module: nn.Module, _args: Any, _kwargs: Any, output: Any) -> None:
        self.block_output = _copy(first_tensor(output))


def _copy(states: Tensor) -> Tensor:
    return states.detach().clone().float().flatten(0, -2)


def _find_addends(
    decoder: PreTrainedModel, blocks: list[tuple[int, nn.Module]]
) -> dict[int, tuple[nn.Module, nn.Module]]:
    """Run a few tokens and find, in each block, the two modules whose outputs are added to its input."""
    recordings: dict[int, _Recording] = {}

    def register(context: HookContext) -> None:
        for layer, block in blocks:
            recording = recordings[layer] = _Recording()
            context.add_pre_hook(block, recording.hook_input)
            context.add_hook(block, recording.hook_output)
            for module in block.modules():
                if module is not block:
                    context.add_hook(module, recording.hook_module)

    with HookContext(register), torch.no_grad():
        stack_of(decoder)(input_ids=probe_ids(decoder), use_cache=False)
    tolerance = 2e-2 if torch.finfo(decoder.dtype).eps < 1e-4 else 0.2
    return {layer: _best_pair(layer, recording, tolerance) for layer, recording in recordings.items()}


def _best_pair(layer: int, recording: _Recording, tolerance: float) -> tuple[nn.Module, nn.Module]:
    """Find the two modules, in order of execution, with input + first + second = output.

    Raises:
        ValueError: No pair comes close enough.
    """
    change = recording.block_output - recording.block_input.to(recording.block_output.device)
    runs = Counter(module for module, _ in recording.outputs)
    outputs = [(module, output) for module, output in recording.outputs if runs[module] == 1]
    best: tuple[float, tuple[nn.Module, nn.Module]] | None = None
    for number, (first, a) in enumerate(outputs):
        for second, b in outputs[number + 1 :]:
            if a.shape != b.shape or a.shape != change.shape:
                continue
            # The median over tokens: at massive activations, rounding hides what is added.
            error = float(((a + b - change).norm(dim=-1) / change.norm(dim=-1).clamp(min=1e-12)).median())
            # Of equal pairs take the later one: a dropout after the attention is what is really added.
            if error < tolerance and (best is None or error <= best[0] + 1e-6):
                best = (error, (first, second))
    if best is None:
        raise ValueError(
            f"in layer {layer} no two modules' outputs add up to what the block adds to the residual stream, so the "
            "sites 'attention' and 'mlp' cannot be told apart there; use site='block' with encoder='reader'."
        )
    return best[1]
