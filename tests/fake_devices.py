"""A second device without hardware: tensors that compute on the CPU, say that they stand elsewhere, and do not mix."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

CPU, ELSEWHERE = torch.device("cpu"), torch.device("cpu", 1)
"""The CPU, and the device that :func:`elsewhere` makes: PyTorch itself takes ``cpu:1`` for the CPU."""
_MOVES = ("aten::_to_copy", "aten::copy_")


class ElsewhereTensor(Tensor):
    """A tensor on the second device."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> ElsewhereTensor:
        options = {"strides": inner.stride(), "dtype": inner.dtype, "device": ELSEWHERE}
        return torch.Tensor._make_wrapper_subclass(cls, inner.size(), **options)

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(function, args, kwargs or {})


@contextmanager
def elsewhere() -> Iterator[None]:
    """A block in which ``cpu:1`` is a second device: operations on tensors of both devices fail, as on GPUs."""
    with _Operations(), _Literals():
        yield


class _Literals(TorchFunctionMode):
    """Lets ``torch.tensor`` make tensors on the second device."""

    def __torch_function__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = dict(kwargs or {})
        if function is torch.tensor and options.get("device") == ELSEWHERE:
            return function(*args, **{**options, "device": CPU}).to(ELSEWHERE)
        return function(*args, **options)


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(function, args, kwargs or {})


def _compute(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Compute on the CPU; the result stands where the arguments do, or where ``device`` says."""
    name = function._schema.name
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    places = {tensor.device for tensor in tensors if tensor.ndim or tensor.device == ELSEWHERE}
    if len(places) > 1 and name not in _MOVES:
        raise RuntimeError(f"expected all tensors on one device, but {name} got some on each of {places}")
    place = kwargs.get("device") or (tensors[0].device if name in _MOVES else ELSEWHERE if ELSEWHERE in places else CPU)
    if "device" in kwargs and kwargs["device"] == ELSEWHERE:
        kwargs = {**kwargs, "device": CPU}
    result = function(*tree_map(_inner, args), **tree_map(_inner, kwargs))
    if name.endswith("_") and not name.endswith("__"):
        return args[0]
    if place != ELSEWHERE:
        return result
    return tree_map(lambda leaf: ElsewhereTensor(leaf) if isinstance(leaf, Tensor) else leaf, result)


def _inner(leaf: Any) -> Any:
    return leaf.inner if isinstance(leaf, ElsewhereTensor) else leaf
