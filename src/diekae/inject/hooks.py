"""Hooks that read the residual stream at hookpoints and add differences there, for the length of a ``with`` block.

Module outputs are never written into, hooks answer only to the thread or task that entered the block, and all hooks
are removed at its end.

Example, a vector [W] added to the stream of layer 5 while the decoder generates:

    hookpoints = find_hookpoints(decoder, (5,), "block")
    with apply_hook(hookpoints, lambda layer, stream, output: vector.expand_as(output)):
        decoder.generate(**inputs)

Shapes: B rows, T positions, W decoder width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from diekae.inject.contexts import HookContext
from diekae.inject.hookpoints import Hookpoint, find_blocks, first_tensor, input_states, stack_of, with_first
from diekae.inject.packed_weights import unpacked_weights

HookFunction = Callable[[int, Tensor, Tensor], Tensor | None]
"""Called as ``hook(layer, stream, output)``, with the residual stream right after the hookpoint and the output of its
module, both [B, T, W]. Returns the difference to add to the output, or None."""


class _Stop(Exception):  # noqa: N818 - not an error: ends a forward whose rest is not needed
    """Raised at the last hookpoint of :func:`run`."""


def apply_hook(
    hookpoints: Mapping[int, Hookpoint], hook: HookFunction, *, stop_after: int | None = None
) -> HookContext:
    """Return a block that calls ``hook`` at every hookpoint whenever the current context runs the decoder inside it.

    Args:
        hookpoints: Hookpoints by layer.
        hook: See :data:`HookFunction`.
        stop_after: Layer after whose hookpoint the forward ends; only :func:`run` may pass it.
    """
    return HookContext(lambda context: add_hook(context, hookpoints, hook, stop_after=stop_after))


def add_hook(
    context: HookContext, hookpoints: Mapping[int, Hookpoint], hook: HookFunction, *, stop_after: int | None = None
) -> None:
    """Add the hooks of :func:`apply_hook` to a block that is being entered."""
    for layer, hookpoint in hookpoints.items():
        parts: dict[Any, Tensor] = {}
        if hookpoint.addends:
            context.add_pre_hook(hookpoint.block, _input_hook(parts))
            for module in hookpoint.addends:
                context.add_hook(module, _addend_hook(parts))
        context.add_hook(hookpoint.module, _output_hook(layer, hookpoint, hook, parts, stop_after == layer))


def _input_hook(parts: dict[Any, Tensor]) -> Any:
    """Return a hook that stores the input of a block."""

    def store(_module: nn.Module, args: Any, kwargs: Any) -> None:
        parts.clear()
        parts["input"] = input_states(args, kwargs)

    return store


def _addend_hook(parts: dict[Any, Tensor]) -> Any:
    """Return a hook that stores the output of a module that adds to the residual stream."""

    def store(module: nn.Module, _args: Any, _kwargs: Any, output: Any) -> None:
        parts[module] = first_tensor(output)

    return store


def _output_hook(layer: int, hookpoint: Hookpoint, hook: HookFunction, parts: dict[Any, Tensor], stop: bool) -> Any:
    """Return a hook for the module of a hookpoint, which calls ``hook`` and adds the difference that it returns."""

    def add_difference(_module: nn.Module, _args: Any, _kwargs: Any, output: Any) -> Any:
        states = first_tensor(output)
        stream = states
        if hookpoint.addends:
            # Where accelerate spreads the decoder, the block's input comes from the device of the block before.
            block_input = parts["input"].to(states.device)
            stream = block_input + sum(parts[module].reshape(block_input.shape) for module in hookpoint.addends)
            parts.clear()
        difference = hook(layer, stream, states.reshape(stream.shape))
        if stop:
            raise _Stop
        if difference is None:
            return None
        return with_first(output, states + difference.to(states).reshape(states.shape))

    return add_difference


def keep_where(receives: Tensor, difference: Tensor, stream: Tensor) -> Tensor:
    """Return the difference in the columns that receive, and −0.0 elsewhere.

    Adding −0.0 leaves every float as it is, where +0.0 would turn −0.0 into +0.0. So rows without knowledge stay
    bit-identical.

    Args:
        receives: Bool [B, T].
        difference: [B, T, W].
        stream: The stream to which it is added, [B, T, W].
    """
    return torch.where(receives[..., None].to(stream.device), difference.to(stream), -torch.zeros_like(stream))


def detach_blocks(decoder: PreTrainedModel) -> HookContext:
    """Return a block that stops gradients between decoder blocks, in forwards of the current context inside it."""

    def detach(_block: nn.Module, args: Any, kwargs: Any) -> Any:
        states = input_states(args, kwargs).detach()
        return ((states, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": states})

    def register(context: HookContext) -> None:
        for block in find_blocks(decoder):
            context.add_pre_hook(block, detach)

    return HookContext(register)


def contiguous_head(decoder: PreTrainedModel) -> HookContext:
    """Return a block in which the head reads a copy of its states, in forwards of the current context inside it.

    ``generate`` gives it a slice, the last column of each row. If the decoder's weights take no gradients, PyTorch
    multiplies a slice row by row and, in bf16 on a CPU, copies the head's weights for each, which takes much longer
    (``speed/contiguous-head.json``).
    """
    return HookContext(lambda context: add_contiguous_head(context, decoder))


def add_contiguous_head(context: HookContext, decoder: PreTrainedModel) -> None:
    """Add the hook of :func:`contiguous_head` to a block that is being entered."""

    def copy(_head: nn.Module, args: tuple[Tensor, ...], kwargs: Any) -> Any:
        # `contiguous()` would keep the slice of a single row, whose strides PyTorch's product looks at.
        return tuple(states.clone(memory_format=torch.contiguous_format) for states in args), kwargs

    head = decoder.get_output_embeddings()
    if isinstance(head, nn.Module):
        context.add_pre_hook(head, copy)


@contextmanager
def frozen(decoder: PreTrainedModel) -> Iterator[None]:
    """Keep the decoder in eval mode and without gradients of its own inside the block, and restore both after it.

    If gradients are enabled, they pass through its weights, packed ones too.
    """
    required = [(parameter, parameter.requires_grad) for parameter in decoder.parameters()]
    modes = [(module, module.training) for module in decoder.modules()]
    try:
        for parameter, _ in required:
            parameter.requires_grad_(False)
        decoder.eval()
        with unpacked_weights(decoder):
            yield
    finally:
        for parameter, requires_grad in required:
            parameter.requires_grad_(requires_grad)
        for module, mode in modes:
            module.training = mode


def run(
    decoder: PreTrainedModel,
    ids: Tensor,
    hookpoints: Mapping[int, Hookpoint],
    hook: HookFunction = lambda _layer, _stream, _output: None,
    gradients: bool = False,
    **kwargs: Any,
) -> None:
    """Run the decoder over ids [B, T] up to the last hookpoint, without its head.

    Args:
        decoder: The decoder.
        ids: Tokens, int64 [B, T].
        hookpoints: Hookpoints by layer.
        hook: Called at each of them with states on the device of ids; see :data:`HookFunction`.
        gradients: Whether to keep the graph, where gradients are enabled.
        **kwargs: For the decoder; ``use_cache`` is False by default.
    """

    def hook_beside_ids(layer: int, stream: Tensor, output: Tensor) -> Tensor | None:
        return hook(layer, stream.to(ids.device), output.to(ids.device))

    keep_graph = gradients and torch.is_grad_enabled()
    with torch.set_grad_enabled(keep_graph), apply_hook(hookpoints, hook_beside_ids, stop_after=max(hookpoints)):
        try:
            stack_of(decoder)(input_ids=ids, use_cache=kwargs.pop("use_cache", False), **kwargs)
        except _Stop:
            pass
