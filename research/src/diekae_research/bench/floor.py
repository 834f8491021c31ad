"""Operations and bytes: what a pass must do, on any machine. LLaMA2-7B's are counted on the device ``meta``.

Operations are multiplications and additions of matrix products and attention (PyTorch's counter); products of
attention count in full, also where a causal mask spares half of them.

Shapes: B rows, T columns, P columns in the cache, a tokens of the anchor, N encoders, W decoder width, H query heads, d
dimensions of a key, e of a value.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from transformers import PreTrainedModel

from diekae.encoders import KnowledgeBatch
from diekae.encoders.attention import Attention
from diekae.inject.attached import Attached
from diekae.inject.hooks import run
from diekae_research.bench.setting import random_cache


def _attention(query: Any, key: Any, value: Any, *_rest: Any, out_shape: Any = None, **_options: Any) -> int:  # noqa: ARG001
    count: int = sdpa_flop_count(query, key, value)
    return count


def _attention_gradient(gradient: Any, query: Any, key: Any, value: Any, *_rest: Any, **_options: Any) -> int:  # noqa: ARG001
    # Five products where the forward has two: the scores once more, and one each for Q, K, V and the weights.
    return 5 * int(sdpa_flop_count(query, key, value)) // 2


# The CPU's kernel is the one that PyTorch's counter does not know.
_FORWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
_MAPPING = {_FORWARD: _attention, _BACKWARD: _attention_gradient}


def operations(call: Callable[[], object], *, gradients: bool = False) -> int:
    """Return the operations of a call, counted while it runs."""
    with FlopCounterMode(display=False, custom_mapping=_MAPPING) as counter, torch.set_grad_enabled(gradients):
        call()
    return int(counter.get_total_flops())


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that are made inside the block and still held; on any device, ``meta`` too."""

    def __init__(self) -> None:
        """Start from nothing."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known: set[int] = set()

    def _release(self, key: int, size: int) -> None:
        self.now -= size
        self._known.discard(key)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ARG002
        """Run the operation and take note of storages that are new."""
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if not isinstance(leaf, Tensor):
                continue
            storage = leaf.untyped_storage()
            key = storage._cdata
            if key in self._known or key in given:
                continue
            self._known.add(key)
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._release, key, storage.nbytes())
        return out


class ReadWeights(TorchDispatchMode):
    """Notes which parameters of a module the operations inside the block are given."""

    def __init__(self, module: torch.nn.Module) -> None:
        """Watch all parameters of a module."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._parameters = {parameter.untyped_storage()._cdata: parameter for parameter in module.parameters()}
        self._read: set[int] = set()

    @property
    def nbytes(self) -> int:
        """Return the bytes of those that were read, each once."""
        return sum(int(self._parameters[key].nbytes) for key in self._read)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ARG002
        """Note what is read, and run the operation."""
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        self._read |= given & self._parameters.keys()
        return func(*args, **(kwargs or {}))


def peak_bytes(call: Callable[[], object]) -> int:
    """Return the most bytes that tensors made by a call held at any moment."""
    with LiveBytes() as counter, torch.no_grad():
        kept = call()
        del kept
    return int(counter.peak)


def decoder_pass(decoder: PreTrainedModel, new: int, past: int = 0, *, head: int = 1) -> int:
    """Return the operations of one pass over ``new`` columns behind ``past`` cached ones, ``head`` logits kept."""
    ids, options = _inputs(decoder, new, past)
    return operations(lambda: decoder(input_ids=ids, logits_to_keep=head, **options))


def states_pass(attached: Attached, new: int) -> int:
    """Return the operations of reading ``new`` columns up to the bank's last hookpoint."""
    ids, options = _inputs(attached.decoder, new, 0)
    return operations(lambda: run(attached.decoder, ids, attached.points, lambda *_: None, **options))


def bank_pass(attached: Attached, new: int, slots: int, anchor: int = 1) -> int:
    """Return the operations that a bank adds to D(x)'s at ``new`` columns of x, ``slots`` slots known.

    Args:
        attached: The bank.
        new: Columns, the anchor's among them.
        slots: Of K.
        anchor: How many of the columns are x's own anchor, which the decoder's attention answers apart.
    """
    return operations(_answer(attached, new, slots, anchor))


def bank_prepare(attached: Attached, length: int, anchor: int = 1) -> int:
    """Return the operations of all encoders on ``length`` tokens of K, the decoder's states given."""
    encoder: Any = attached.bank.encoder
    if isinstance(encoder, Attention):
        states = _empty(attached, len(attached.bank.layers), 1, anchor + length, encoder.state_width)
        return operations(lambda: encoder.slots(states, lambda _number, keys: keys))
    return operations(lambda: prepare_bank(attached, length))


def slot_bytes(attached: Attached) -> int:
    """Return the bytes of a token of K once it is prepared, in all layers of the bank."""
    encoder: Any = attached.bank.encoder
    if isinstance(encoder, Attention):
        size = sum(groups * size for groups, size in encoder.shapes.values())
        return len(attached.bank.layers) * size * attached.decoder.dtype.itemsize
    return sum(tensor.nbytes for tensor in prepare_bank(attached, 1).tensors.values())


def bank_peak(attached: Attached, new: int, slots: int) -> int:
    """Return the most bytes that the bank's tensors take while it answers ``new`` columns.

    Slots that the decoder's attention reads are joined to x's keys and values in a buffer that each layer keeps.
    """
    joined = slot_bytes(attached) * (slots + new) if attached.by_attention else 0
    return joined + peak_bytes(_answer(attached, new, 0 if attached.by_attention else slots, 0))


def answer_bytes(attached: Attached) -> int:
    """Return the bytes of the bank's weights that a generated token reads: not those that read K alone."""
    answer = _answer(attached, 1, 1, 0)
    read = ReadWeights(attached.bank)
    with read, torch.no_grad():
        answer()
    return read.nbytes


@torch.no_grad()
def _answer(attached: Attached, new: int, slots: int, anchor: int) -> Callable[[], object]:
    """Return a call that does what a bank adds to D(x) at ``new`` columns."""
    bank = attached.bank
    if isinstance(bank.encoder, Attention):
        encoder, values = bank.encoder, (bank.encoder.sizes.heads or 0) * (bank.encoder.sizes.value_size or 0)
        read, answer = _empty(attached, 1, new, encoder.width), _empty(attached, 1, new, values)

        def run() -> None:
            for number in range(len(bank.layers)):
                _read_slots(attached, encoder, new, slots)
                _read_slots(attached, encoder, anchor, anchor)
                encoder.think(number, read, answer)

        return run
    prepared, mask = prepare_bank(attached, slots), torch.ones(1, new, dtype=torch.bool, device=attached.decoder.device)
    return lambda: bank(prepared, _given(attached, new), mask)


def _read_slots(attached: Attached, encoder: Attention, queries: int, slots: int) -> None:
    """Let the queries of one layer see slots, where there are any of both.

    The anchor among the slots takes the place of x's own, so that it costs nothing more but what x's own anchor sees.
    """
    heads, key, value = encoder.sizes.heads, encoder.sizes.key_size, encoder.sizes.value_size
    assert heads and key and value
    if queries and slots:
        query, keys = (_empty(attached, 1, heads, columns, key) for columns in (queries, slots))
        F.scaled_dot_product_attention(query, keys, _empty(attached, 1, heads, slots, value))


@torch.no_grad()
def prepare_bank(attached: Attached, length: int) -> KnowledgeBatch:
    """Let the bank read ``length`` tokens of K, of which the embeddings or states are given."""
    mask = torch.ones(1, length, dtype=torch.bool, device=attached.decoder.device)
    return attached.bank.prepare(_given(attached, length), mask)


def _given(attached: Attached, length: int) -> Tensor:
    bank = attached.bank
    width, count = bank.encoder.width, len(bank.layers)
    if bank.encoder.reads == "embeddings":
        width, count = bank.encoder.embedding_width, 1
    return torch.empty(count, 1, length, width, dtype=bank.dtype, device=attached.decoder.device)


def _empty(attached: Attached, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=attached.decoder.dtype, device=attached.decoder.device)


def _inputs(decoder: PreTrainedModel, new: int, past: int) -> tuple[Tensor, dict[str, Any]]:
    """Return ids, and a mask that needs no look at them: tensors on ``meta`` hold nothing to look at."""
    device = decoder.device
    ids = torch.zeros(1, new, dtype=torch.long, device=device)
    mask = torch.ones(1, 1, new, past + new, dtype=torch.bool, device=device)
    if not past:
        return ids, {"attention_mask": mask, "use_cache": False}
    return ids, {"attention_mask": mask, "past_key_values": random_cache(decoder, past), "use_cache": True}


def weight_bytes(module: torch.nn.Module) -> int:
    """Return the bytes of all parameters, each once."""
    return sum(parameter.nbytes for parameter in module.parameters())


def cache_bytes(decoder: PreTrainedModel, length: int) -> int:
    """Return the bytes of the decoder's keys and values of ``length`` tokens."""
    layers: Any = random_cache(decoder, length).layers
    return sum(int(layer.keys.nbytes + layer.values.nbytes) for layer in layers)


def decode_bytes(decoder: PreTrainedModel) -> int:
    """Return the bytes of weights that one generated token reads: all but the embedding table, of which it reads a row.

    A table that is also the head is read whole.
    """
    table: Any = decoder.get_input_embeddings()
    head: Any = decoder.get_output_embeddings()
    tied = head is not None and head.weight.data_ptr() == table.weight.data_ptr() and table.weight.device.type != "meta"
    return weight_bytes(decoder) - (0 if tied else table.weight.nbytes)
