"""A checksum of tensors that takes a few milliseconds, to see whether weights have changed.

PyTorch's version counters do not see changes through ``.data``.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

_WORD = 8
"""Bytes of the integers that are added."""
_CHUNKS = 61
"""Sums of one tensor. A prime, so that also weights that change places move between chunks."""
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integers of the size of a number, by bytes."""


@torch.no_grad()
def checksum(tensors: Iterable[Tensor]) -> tuple[int, ...]:
    """Return one number for each tensor. Any change of a single weight changes its tensor's number."""
    sums = [_sum_of_bits(tensor) for tensor in tensors]
    return tuple(torch.stack(sums).tolist()) if sums else ()


def _sum_of_bits(tensor: Tensor) -> Tensor:
    """Return a sum of the tensor's bits, read as integers; an int64 scalar that wraps around."""
    flat = tensor.detach().contiguous().view(-1)
    if flat.storage_offset() * flat.itemsize % _WORD:
        flat = flat.clone()
    in_words = flat.numel() - flat.numel() % (_WORD // flat.itemsize)
    words, rest = flat[:in_words].view(torch.int64), flat[in_words:].view(_BITS[flat.itemsize])
    in_chunks = words.numel() - words.numel() % _CHUNKS
    chunks = words[:in_chunks].view(_CHUNKS, -1).sum(1)
    # Odd factors: the difference that one weight makes is not multiplied to zero.
    factors = 2 * torch.arange(_CHUNKS, device=flat.device) + 3
    return (chunks * factors).sum() + words[in_chunks:].sum() + rest.sum(dtype=torch.int64)
