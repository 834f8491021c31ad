"""The least that a pass must do on any machine: its operations and its bytes.

Shapes: B rows, T columns, P columns in the cache, a tokens of the anchor, N encoders, W decoder width, H query heads, d
dimensions of a key, e of a value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from diekae.encoders import KnowledgeBatch
from diekae.encoders.attention import Attention
from diekae.inject.attached import Attached
from diekae.inject.hooks import run
from diekae_research.bench.counters import operations, peak_bytes, read_bytes
from diekae_research.bench.setting import random_cache


def decoder_pass(decoder: PreTrainedModel, new: int, past: int = 0, *, head: int = 1) -> int:
    """Return the operations of one pass over ``new`` columns behind ``past`` cached ones, with ``head`` logits."""
    ids, options = _inputs(decoder, new, past)
    return operations(lambda: decoder(input_ids=ids, logits_to_keep=head, **options))


def states_pass(attached: Attached, new: int) -> int:
    """Return the operations of reading ``new`` columns up to the bank's last hookpoint."""
    ids, options = _inputs(attached.decoder, new, 0)
    return operations(lambda: run(attached.decoder, ids, attached.hookpoints, lambda *_: None, **options))


def bank_pass(attached: Attached, new: int, slots: int, anchor: int = 1) -> int:
    """Return the operations that a bank adds to D(x).

    Args:
        attached: The bank.
        new: Columns of x.
        slots: Slots of K.
        anchor: Slots of the anchor.
    """
    return operations(_bank_call(attached, new, slots, anchor))


def bank_prepare(attached: Attached, length: int, anchor: int = 1) -> int:
    """Return the operations of all encoders on ``length`` tokens of K, without those of the decoder's states."""
    encoder: Any = attached.bank.encoder
    if isinstance(encoder, Attention):
        states = _empty(attached, len(attached.bank.layers), 1, anchor + length, encoder.state_width)
        return operations(lambda: encoder.slots(states, lambda _number, keys: keys))
    return operations(lambda: prepare_bank(attached, length))


def slot_bytes(attached: Attached) -> int:
    """Return the bytes of one prepared token of K, in all layers of the bank."""
    encoder: Any = attached.bank.encoder
    if isinstance(encoder, Attention):
        size = sum(groups * size for groups, size in encoder.shapes.values())
        return len(attached.bank.layers) * size * attached.decoder.dtype.itemsize
    return sum(tensor.nbytes for tensor in prepare_bank(attached, 1).tensors.values())


def bank_peak(attached: Attached, new: int, slots: int) -> int:
    """Return the most bytes that the bank's tensors take in a pass over ``new`` columns.

    Where the decoder's attention reads the slots, one layer at a time joins them to x's keys and values. With a cache,
    as in `generate`, what all layers have joined is kept, for each row.
    """
    joined = slot_bytes(attached) * (slots + new) // len(attached.bank.layers) if attached.by_attention else 0
    return joined + peak_bytes(_bank_call(attached, new, 0 if attached.by_attention else slots, 0))


def answer_bytes(attached: Attached) -> int:
    """Return the bytes of the bank's weights that a generated token reads; weights that only read K are left out."""
    return read_bytes(_bank_call(attached, 1, 1, 0), attached.bank)


def weight_bytes(module: torch.nn.Module) -> int:
    """Return the bytes of all parameters, each counted once."""
    return sum(parameter.nbytes for parameter in module.parameters())


def cache_bytes(decoder: PreTrainedModel, length: int) -> int:
    """Return the bytes of the decoder's keys and values of ``length`` tokens."""
    layers: Any = random_cache(decoder, length).layers
    return sum(int(layer.keys.nbytes + layer.values.nbytes) for layer in layers)


def decode_bytes(decoder: PreTrainedModel) -> int:
    """Return the bytes of weights that one generated token reads.

    Of the embedding table it reads one row, which is not counted. A table that is also the head is read whole.
    """
    table: Any = decoder.get_input_embeddings()
    head: Any = decoder.get_output_embeddings()
    tied = head is not None and head.weight.data_ptr() == table.weight.data_ptr() and table.weight.device.type != "meta"
    return weight_bytes(decoder) - (0 if tied else table.weight.nbytes)


@torch.no_grad()
def prepare_bank(attached: Attached, length: int) -> KnowledgeBatch:
    """Let the bank read ``length`` tokens of K, from embeddings or states without meaning."""
    mask = torch.ones(1, length, dtype=torch.bool, device=attached.decoder.device)
    return attached.bank.prepare(_encoder_input(attached, length), mask)


@torch.no_grad()
def _bank_call(attached: Attached, new: int, slots: int, anchor: int) -> Callable[[], object]:
    """Return a call that does what a bank adds to D(x) at ``new`` columns."""
    bank, encoder = attached.bank, attached.bank.encoder
    if not isinstance(encoder, Attention):
        prepared = prepare_bank(attached, slots)
        mask = torch.ones(1, new, dtype=torch.bool, device=attached.decoder.device)
        return lambda: bank(prepared, _encoder_input(attached, new), mask)
    value_width = (encoder.sizes.heads or 0) * (encoder.sizes.value_size or 0)
    states, output = _empty(attached, 1, new, encoder.width), _empty(attached, 1, new, value_width)

    def call() -> None:
        for _ in bank.layers:
            _attend(attached, encoder, new, anchor + slots)
        for weights in encoder.mlp_weights():
            encoder.mlp_output(weights, states, output)

    return call


def _attend(attached: Attached, encoder: Attention, queries: int, slots: int) -> None:
    """Let the queries of one layer see slots, if there are any of both."""
    heads, key, value = encoder.sizes.heads, encoder.sizes.key_size, encoder.sizes.value_size
    assert heads and key and value
    if queries and slots:
        query, keys = (_empty(attached, 1, heads, columns, key) for columns in (queries, slots))
        F.scaled_dot_product_attention(query, keys, _empty(attached, 1, heads, slots, value))


def _encoder_input(attached: Attached, length: int) -> Tensor:
    """Return embeddings [1, 1, length, width] or states [N, 1, length, W], whichever the bank reads."""
    bank = attached.bank
    width, count = bank.encoder.width, len(bank.layers)
    if bank.encoder.reads == "embeddings":
        width, count = bank.encoder.embedding_width, 1
    return torch.empty(count, 1, length, width, dtype=bank.dtype, device=attached.decoder.device)


def _empty(attached: Attached, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=attached.decoder.dtype, device=attached.decoder.device)


def _inputs(decoder: PreTrainedModel, new: int, past: int) -> tuple[Tensor, dict[str, Any]]:
    """Return ids and options of a pass, the mask included: tensors on ``meta`` have no values to infer it from."""
    ids = torch.zeros(1, new, dtype=torch.long, device=decoder.device)
    mask = torch.ones(1, 1, new, past + new, dtype=torch.bool, device=decoder.device)
    if not past:
        return ids, {"attention_mask": mask, "use_cache": False}
    return ids, {"attention_mask": mask, "cache": random_cache(decoder, past), "use_cache": True}
