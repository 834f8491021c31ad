"""Where a decoder can be read and added to: found in the model, never tabled per architecture."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

TOKENS = 8
"""Tokens of the run that shows which modules' outputs are added to the residual stream."""


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
    tensor: Tensor = output[0] if isinstance(output, tuple | list) else output
    return tensor


def with_first(output: Any, tensor: Tensor) -> Any:
    """Return the output with its hidden states exchanged; the given object is left as it was."""
    return type(output)((tensor, *output[1:])) if isinstance(output, tuple | list) else tensor


def stack_of(decoder: PreTrainedModel) -> nn.Module:
    """Return the decoder without its language-model head: the module that the decoder itself calls (OPT nests it)."""
    stack: nn.Module = decoder.get_decoder()
    return stack


def find_blocks(decoder: PreTrainedModel) -> nn.ModuleList:
    """Find the stack of decoder blocks: the outermost list of as many alike modules as the decoder has layers.

    Raises:
        ValueError: There is none, or more than one.
    """
    config = decoder.config.get_text_config(decoder=True)
    depth = getattr(config, "num_hidden_layers", None)
    found = [
        (name.count("."), name, module)
        for name, module in decoder.named_modules()
        if isinstance(module, nn.ModuleList) and (len(module) == depth if depth else len(module) > 1)
    ]
    outermost = [entry for entry in found if entry[0] == min(e[0] for e in found)]
    if len(outermost) != 1:
        names = ", ".join(entry[1] for entry in outermost) or "none"
        raise ValueError(
            f"the blocks of {type(decoder).__name__} could not be found: expected one outermost ModuleList of "
            f"num_hidden_layers={depth} modules, found {names}. Is it a *ForCausalLM decoder?"
        )
    return outermost[0][2]


def find_hookpoints(decoder: PreTrainedModel, layers: tuple[int, ...], site: str) -> dict[int, Hookpoint]:
    """Find the hookpoint of each layer.

    For the sites ``attention`` and ``mlp`` a run over a few tokens shows which modules' outputs are added to the
    residual stream: with norms after attention (Gemma) that is not the attention module, and in parallel blocks
    (GPT-NeoX, Falcon) both are added at once.

    Raises:
        ValueError: A block does not add its attention and MLP to the stream in a way that can be recognised.
    """
    blocks = find_blocks(decoder)
    if site == "block":
        return {layer: Hookpoint(blocks[layer], blocks[layer], ()) for layer in layers}
    points = {}
    for layer, (attention, mlp) in _probe(decoder, [(layer, blocks[layer]) for layer in layers]).items():
        module, addends = (attention, (attention,)) if site == "attention" else (mlp, (attention, mlp))
        points[layer] = Hookpoint(blocks[layer], module, addends)
    return points


def _probe(decoder: PreTrainedModel, blocks: list[tuple[int, nn.Module]]) -> dict[int, tuple[nn.Module, nn.Module]]:
    """Run a few tokens and find, in each block, the two modules whose outputs make its output from its input."""
    records: dict[int, list[tuple[nn.Module, Tensor]]] = {layer: [] for layer, _ in blocks}
    ends: dict[int, tuple[Tensor, Tensor]] = {}
    handles = []

    def note(layer: int, size: list[int]) -> Any:
        def hook(module: nn.Module, _args: Any, output: Any) -> None:
            tensor = first_tensor(output)
            if isinstance(tensor, Tensor) and tensor.shape[-1] == size[0]:
                records[layer].append((module, tensor.detach().clone().float().flatten(0, -2)))

        return hook

    def begin(size: list[int], store: list[Tensor]) -> Any:
        def hook(_module: nn.Module, args: Any, kwargs: Any) -> None:
            states = args[0] if args else kwargs["hidden_states"]
            size[0] = states.shape[-1]
            store.append(states.detach().clone().float().flatten(0, -2))

        return hook

    def end(layer: int, store: list[Tensor]) -> Any:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            ends[layer] = store[-1], first_tensor(output).detach().clone().float().flatten(0, -2)

        return hook

    try:
        for layer, block in blocks:
            size, store = [0], list[Tensor]()
            handles.append(block.register_forward_pre_hook(begin(size, store), with_kwargs=True))
            handles.append(block.register_forward_hook(end(layer, store)))
            handles += [m.register_forward_hook(note(layer, size)) for m in block.modules() if m is not block]
        vocabulary = decoder.get_input_embeddings().weight.shape[0]  # type: ignore[index]
        # From the middle of the vocabulary: special tokens at its ends carry massive activations, which drown the rest.
        ids = torch.linspace(vocabulary // 10, vocabulary // 2, TOKENS, device=decoder.device).long()[None]
        with torch.no_grad():
            stack_of(decoder)(input_ids=ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    precision = torch.finfo(decoder.dtype).eps
    return {layer: _addends(layer, records[layer], precision, *ends[layer]) for layer, _ in blocks}


def _addends(
    layer: int, record: list[tuple[nn.Module, Tensor]], precision: float, start: Tensor, end: Tensor
) -> tuple[nn.Module, nn.Module]:
    """Find the first pair of modules, in order of execution, that satisfies input + a + b = output."""
    missing = end - start
    runs = Counter(module for module, _ in record)
    record = [(module, output) for module, output in record if runs[module] == 1]  # one that runs twice is no place
    close = 2e-2 if precision < 1e-4 else 0.2
    best: tuple[float, tuple[nn.Module, nn.Module]] | None = None
    for i, (first, a) in enumerate(record):
        for second, b in record[i + 1 :]:
            if a.shape != b.shape or a.shape != end.shape:
                continue
            # The median over tokens: where massive activations stand, rounding hides what is added.
            error = float(((a + b - missing).norm(dim=-1) / missing.norm(dim=-1).clamp(min=1e-12)).median())
            # Later modules win ties: a dropout that passes the attention's output on is what is really added.
            if error < close and (best is None or error <= best[0] + 1e-6):
                best = (error, (first, second))
    if best is None:
        raise ValueError(
            f"in layer {layer} no two modules' outputs add up to what the block adds to the residual stream, so the "
            "sites 'attention' and 'mlp' cannot be told apart there; use site='block' with encoder='reader'."
        )
    return best[1]
