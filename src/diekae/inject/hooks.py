"""Reading and adding at hookpoints for the length of a `with` block: out of place, in one thread, and gone after it.

Shapes: B rows, T positions, W decoder width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from diekae.inject.hookpoints import Hookpoint, find_blocks, first_tensor, stack_of, with_first

Visit = Callable[[int, Tensor, Tensor], Tensor | None]
"""Called as ``visit(layer, stream, output)``, both [B, T, W]; returns what is added to the output, or None."""


_ENTERED: ContextVar[frozenset[Owner]] = ContextVar("diekae_entered", default=frozenset())


class Owner:
    """Whose hooks they are: they answer to the thread or task that entered, and to what copies its context.

    A ``with`` block of its own; :attr:`here` tells whether the caller is inside.
    """

    def __enter__(self) -> Owner:
        """Begin."""
        _ENTERED.set(_ENTERED.get() | {self})
        return self

    def __exit__(self, *_: object) -> None:
        """End; also where another context than the one that began does so."""
        _ENTERED.set(_ENTERED.get() - {self})

    @property
    def here(self) -> bool:
        """Tell whether this context is inside the block."""
        return self in _ENTERED.get()

    @staticmethod
    def leave() -> frozenset[Owner]:
        """Leave all blocks that this context is inside of, and return them for :meth:`restore`."""
        inside = _ENTERED.get()
        _ENTERED.set(frozenset())
        return inside

    @staticmethod
    def restore(inside: frozenset[Owner]) -> None:
        """Be inside blocks again."""
        _ENTERED.set(_ENTERED.get() | inside)


class _Stop(Exception):  # noqa: N818 - not an error: ends a forward whose rest nobody reads
    """Raised by the last hookpoint of a run that needs no more."""


@contextmanager
def visiting(points: Mapping[int, Hookpoint], visit: Visit, *, stop_after: int | None = None) -> Iterator[None]:
    """Call ``visit`` at every hookpoint, whenever *this context* (thread or task) runs the decoder inside the block.

    Others that use the decoder meanwhile pass by the hooks untouched. All hooks are removed at the end,
    whatever happens.

    Args:
        points: Hookpoints by layer.
        visit: Reads the residual stream right after the hookpoint and may return a difference for its output.
        stop_after: Layer whose visit ends the forward; only :func:`run` may pass it.
    """
    handles: list[Any] = []
    with Owner() as owner:
        try:
            for layer, point in points.items():
                parts: dict[Any, Tensor] = {}
                if point.addends:
                    handles.append(point.block.register_forward_pre_hook(_keep_input(owner, parts), with_kwargs=True))
                    handles += [m.register_forward_hook(_keep_output(owner, parts)) for m in point.addends]
                hook = _visit_hook(owner, layer, point, visit, parts, stop_after == layer)
                handles.append(point.module.register_forward_hook(hook))
            yield
        finally:
            for handle in handles:
                handle.remove()


@contextmanager
def apart(decoder: PreTrainedModel) -> Iterator[None]:
    """Let no gradient pass from one decoder block to the one before, in runs of this context inside the block."""
    handles: list[Any] = []
    with Owner() as owner:

        def hook(_module: nn.Module, *rest: Any) -> Any:
            if not owner.here:
                return None
            args, kwargs = rest
            if args:
                return (args[0].detach(), *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": kwargs["hidden_states"].detach()}

        try:
            for block in find_blocks(decoder):
                handles.append(block.register_forward_pre_hook(hook, with_kwargs=True))
            yield
        finally:
            for handle in handles:
                handle.remove()


def _keep_input(owner: Owner, parts: dict[Any, Tensor]) -> Any:
    # `*rest`: another thread may meet this hook before torch has noted that it takes keywords.
    def hook(_module: nn.Module, *rest: Any) -> None:
        if owner.here:
            args, kwargs = rest
            parts.clear()
            parts["input"] = args[0] if args else kwargs["hidden_states"]

    return hook


def _keep_output(owner: Owner, parts: dict[Any, Tensor]) -> Any:
    def hook(module: nn.Module, _args: Any, output: Any) -> None:
        if owner.here:
            parts[module] = first_tensor(output)

    return hook


def _visit_hook(owner: Owner, layer: int, point: Hookpoint, visit: Visit, parts: dict[Any, Tensor], stop: bool) -> Any:
    def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        if not owner.here:
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


def run(
    decoder: PreTrainedModel,
    ids: Tensor,
    points: Mapping[int, Hookpoint],
    visit: Visit = lambda _layer, _stream, _output: None,
    gradients: bool = False,
    **kwargs: Any,
) -> None:
    """Run the decoder over ids [B, T] without its head, and only up to the last hookpoint; no gradients unless told."""
    with torch.set_grad_enabled(gradients and torch.is_grad_enabled()), visiting(points, visit, stop_after=max(points)):
        try:
            stack_of(decoder)(input_ids=ids, use_cache=kwargs.pop("use_cache", False), **kwargs)
        except _Stop:
            pass
