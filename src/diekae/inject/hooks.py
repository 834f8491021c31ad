"""Reading and adding at hookpoints for the length of a `with` block: out of place, in one thread, and gone after it.

Shapes: B rows, T positions, W decoder width.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from diekae.inject.hookpoints import Hookpoint, first_tensor, stack_of, with_first

Visit = Callable[[int, Tensor, Tensor], Tensor | None]
"""Called as ``visit(layer, stream, output)``, both [B, T, W]; returns what is added to the output, or None."""


class _Stop(Exception):  # noqa: N818 - not an error: ends a forward whose rest nobody reads
    """Raised by the last hookpoint of a run that needs no more."""


@contextmanager
def visiting(points: Mapping[int, Hookpoint], visit: Visit, *, stop_after: int | None = None) -> Iterator[None]:
    """Call ``visit`` at every hookpoint, whenever *this thread* runs the decoder inside the block.

    Other threads that use the decoder meanwhile pass by the hooks untouched. All hooks are removed at the end,
    whatever happens.

    Args:
        points: Hookpoints by layer.
        visit: Reads the residual stream right after the hookpoint and may return a difference for its output.
        stop_after: Layer whose visit ends the forward; only :func:`run` may pass it.
    """
    thread = threading.get_ident()
    handles: list[Any] = []
    try:
        for layer, point in points.items():
            parts: dict[Any, Tensor] = {}
            if point.addends:
                handles.append(point.block.register_forward_pre_hook(_keep_input(thread, parts), with_kwargs=True))
                handles += [m.register_forward_hook(_keep_output(thread, parts)) for m in point.addends]
            hook = _visit_hook(thread, layer, point, visit, parts, stop_after == layer)
            handles.append(point.module.register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _keep_input(thread: int, parts: dict[Any, Tensor]) -> Any:
    # `*rest`: another thread may meet this hook before torch has noted that it takes keywords.
    def hook(_module: nn.Module, *rest: Any) -> None:
        if threading.get_ident() == thread:
            args, kwargs = rest
            parts.clear()
            parts["input"] = args[0] if args else kwargs["hidden_states"]

    return hook


def _keep_output(thread: int, parts: dict[Any, Tensor]) -> Any:
    def hook(module: nn.Module, _args: Any, output: Any) -> None:
        if threading.get_ident() == thread:
            parts[module] = first_tensor(output)

    return hook


def _visit_hook(thread: int, layer: int, point: Hookpoint, visit: Visit, parts: dict[Any, Tensor], stop: bool) -> Any:
    def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        if threading.get_ident() != thread:
            return None
        value = first_tensor(output)
        stream = value
        if point.addends:
            start = parts["input"]
            stream = start + sum(parts[module].reshape(start.shape) for module in point.addends)
            parts.clear()
        difference = visit(layer, stream, value.reshape(stream.shape))
        if stop:
            raise _Stop
        if difference is None:
            return None
        return with_first(output, value + difference.to(value.dtype).reshape(value.shape))

    return hook


@contextmanager
def frozen(decoder: PreTrainedModel) -> Iterator[None]:
    """Hold the decoder in eval mode and without gradients of its own; afterwards it is what it was."""
    wanted = [(parameter, parameter.requires_grad) for parameter in decoder.parameters()]
    modes = [(module, module.training) for module in decoder.modules()]
    try:
        for parameter, _ in wanted:
            parameter.requires_grad_(False)
        decoder.eval()
        yield
    finally:
        for parameter, flag in wanted:
            parameter.requires_grad_(flag)
        for module, mode in modes:
            module.training = mode


def run(decoder: PreTrainedModel, ids: Tensor, points: Mapping[int, Hookpoint], visit: Visit, **kwargs: Any) -> None:
    """Run the decoder over ids [B, T], without gradients, without its head, and only up to the last hookpoint."""
    with torch.no_grad(), visiting(points, visit, stop_after=max(points)):
        try:
            stack_of(decoder)(input_ids=ids, use_cache=kwargs.pop("use_cache", False), **kwargs)
        except _Stop:
            pass
