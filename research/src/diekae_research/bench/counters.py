"""Counters of operations and bytes. They watch what PyTorch dispatches, on any device, ``meta`` included.

Operations are the multiplications and additions of matrix products and attention (PyTorch's counter). Attention counts
in full, even where a causal mask skips half of its products.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count


def _attention(query: Any, key: Any, value: Any, *_rest: Any, out_shape: Any = None, **_options: Any) -> int:  # noqa: ARG001
    return int(sdpa_flop_count(query, key, value))


def _attention_gradient(gradient: Any, query: Any, key: Any, value: Any, *_rest: Any, **_options: Any) -> int:  # noqa: ARG001
    # Five products where the forward has two: the scores again, and one each for Q, K, V and the weights.
    return 5 * int(sdpa_flop_count(query, key, value)) // 2


# PyTorch's counter does not know the CPU's kernel.
_CPU_KERNEL = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_gradient,
}


def operations(call: Callable[[], object], *, gradients: bool = False) -> int:
    """Run a call and return its number of operations."""
    with FlopCounterMode(display=False, custom_mapping=_CPU_KERNEL) as counter, torch.set_grad_enabled(gradients):
        call()
    return int(counter.get_total_flops())


def peak_bytes(call: Callable[[], object]) -> int:
    """Run a call and return the most bytes that the tensors it made held at any moment."""
    with _StorageCounter() as counter, torch.no_grad():
        output = call()
        del output
    return int(counter.peak)


def read_bytes(call: Callable[[], object], module: torch.nn.Module) -> int:
    """Run a call and return the bytes of the module's parameters that it read, each counted once."""
    with _StorageCounter() as counter, torch.no_grad():
        call()
    parameters = {parameter.untyped_storage()._cdata: parameter for parameter in module.parameters()}
    return sum(int(parameters[key].nbytes) for key in counter.read & parameters.keys())


class _StorageCounter(TorchDispatchMode):
    """Counts the storages that are read, and those that are made, inside the block."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.read: set[int] = set()
        """Keys of all storages that an operation was given."""
        self.held = self.peak = 0
        """Bytes of the storages made inside the block: alive now, and the most at any moment."""
        self._alive: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ARG002
        """Run the operation and count its storages."""
        inputs = _storages((args, kwargs))
        self.read |= inputs.keys()
        output = func(*args, **(kwargs or {}))
        for key, storage in _storages(output).items():
            if key in self._alive or key in inputs:
                continue
            self._alive.add(key)
            self.held += storage.nbytes()
            self.peak = max(self.peak, self.held)
            weakref.finalize(storage, self._release, key, storage.nbytes())
        return output

    def _release(self, key: int, size: int) -> None:
        self.held -= size
        self._alive.discard(key)


def _storages(values: Any) -> dict[int, torch.UntypedStorage]:
    """Return the storages of all tensors among the values, by an address that is unique while they live."""
    storages = (leaf.untyped_storage() for leaf in tree_leaves(values) if isinstance(leaf, Tensor))
    return {storage._cdata: storage for storage in storages}
