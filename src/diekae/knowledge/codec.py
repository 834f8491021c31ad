"""Tensors as safetensors bytes: exactly, in bf16, or in int8 with one scale per group of elements.

Shapes: N encoders, S slots, d the last dimension, g elements that share a scale.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from diekae.provenance import name_of

Precision = Literal["exact", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
"""How floating-point tensors can be stored."""
GROUP = 64
"""Most elements that share a scale."""
DAMAGED = (SafetensorError, KeyError, TypeError, AttributeError, RuntimeError, json.JSONDecodeError, UnicodeDecodeError)
"""Errors that mean that bytes or a file were not written by :func:`encode`, or are damaged."""
_SCALE = ".scale"
_METADATA = "diekae"


def encode(
    tensors: Mapping[str, Tensor], info: Mapping[str, Any], precision: str = "exact", quantized: Collection[str] = ()
) -> bytes:
    """Return tensors and JSON values as the content of one safetensors file.

    Args:
        tensors: Tensors by name, on any device.
        info: JSON values, stored with the tensors.
        precision: One of `PRECISIONS`.
        quantized: Names of the tensors that ``int8`` applies to; the others stay exact.

    Raises:
        ValueError: The precision is unknown.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision={precision!r} is not known; choose one of {', '.join(PRECISIONS)}.")
    stored = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    info = {**info, "precision": precision}
    if precision == "bf16":
        stored = {n: t.to(torch.bfloat16) if t.is_floating_point() else t for n, t in stored.items()}
    if precision == "int8":
        info["types"] = {name: name_of(tensors[name].dtype) for name in quantized}
        for name in quantized:
            stored[name], stored[name + _SCALE] = quantize(stored[name])
    return save(stored, {_METADATA: json.dumps(info)})


def decode(data: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and JSON values that :func:`encode` was given.

    Raises:
        DAMAGED: The bytes were not written by :func:`encode`, or are damaged.
    """
    length = int.from_bytes(data[:8], "little")
    info = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][_METADATA])
    return _restore_all(load(data), info), info


def decode_file(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and JSON values of a file.

    Tensors stored exactly or in bf16 are memory-mapped, not copied: their pages are read when they are used.

    Raises:
        DAMAGED: The file was not written by :func:`encode`, or is damaged.
    """
    with safe_open(str(path), framework="pt") as file:
        info = json.loads((file.metadata() or {})[_METADATA])
        return _restore_all({name: file.get_tensor(name) for name in file.keys()}, info), info  # noqa: SIM118


def _restore_all(tensors: dict[str, Tensor], info: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors with those in int8 restored to their types."""
    if info.get("precision") == "int8":
        for name, dtype in info["types"].items():
            tensors[name] = restore(tensors[name], tensors.pop(name + _SCALE)).to(getattr(torch, dtype))
    return tensors


def quantize(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Return int8 [N, S, …, d] and bf16 scales [N, S, …, d/g]: the largest of g elements becomes 127.

    The error of an element is at most half a scale, that is 1/253 of the largest element of its group.
    """
    grouped = tensor.float().unflatten(-1, (-1, _group_size(tensor.shape[-1])))
    scale = (grouped.abs().amax(-1) / 127).to(torch.bfloat16)
    wide = scale.float()[..., None]
    whole = (grouped / torch.where(wide > 0, wide, 1.0)).round().clamp(-127, 127).to(torch.int8)
    return whole.flatten(-2), scale


def restore(whole: Tensor, scale: Tensor) -> Tensor:
    """Return fp32 [N, S, …, d] from the result of :func:`quantize`."""
    wide: Tensor = whole.float().unflatten(-1, (scale.shape[-1], -1)) * scale.float()[..., None]
    return wide.flatten(-2)


def _group_size(width: int) -> int:
    """Return the largest divisor of a width that is at most `GROUP`."""
    return next(size for size in range(min(GROUP, width), 0, -1) if width % size == 0)
