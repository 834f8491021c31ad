"""Prepared knowledge in one safetensors file: as it is, in bf16, or in int8 with a scale for every slot and head.

Shapes: N encoders, S slots, d the last dimension, g elements that share a scale.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from diekae.knowledge import PreparedKnowledge
from diekae.provenance import name_of

PRECISIONS = ("exact", "bf16", "int8")
"""How prepared knowledge can be kept."""
GROUP = 64
"""Most elements that share a scale."""
_SCALE = ".scale"
_DAMAGED = (SafetensorError, KeyError, TypeError, AttributeError, json.JSONDecodeError, RuntimeError)
"""What reading a damaged file may raise."""


def pack(prepared: PreparedKnowledge, precision: str = "exact") -> bytes:
    """Return the content of the file.

    Raises:
        ValueError: The precision is not known.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision={precision!r} is not known; choose one of {', '.join(PRECISIONS)}.")
    all_tensors, info = prepared.flatten()
    info["precision"] = precision
    tensors = {name: tensor.cpu().contiguous() for name, tensor in all_tensors.items()}
    if precision == "bf16":
        tensors = {
            name: tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor
            for name, tensor in tensors.items()
        }
    if precision == "int8":
        # The anchor's few slots hold the attention sink, so they stay exact.
        info["types"] = {name: name_of(tensor.dtype) for name, tensor in prepared.tensors.items()}
        for name in prepared.tensors:
            tensors[name], tensors[name + _SCALE] = quantize(tensors[name])
    return save(tensors, {"diekae": json.dumps(info)})


def unpack(path: Path) -> PreparedKnowledge:
    """Read a file. If it is ``exact`` or ``bf16`` it is mapped and not copied: pages are read when they are used.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file holds no prepared knowledge, or is damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file of prepared knowledge at {str(path)!r}.")
    try:
        with safe_open(str(path), framework="pt") as file:
            info = json.loads((file.metadata() or {})["diekae"])
            return _restored({name: file.get_tensor(name) for name in file.keys()}, info)  # noqa: SIM118
    except _DAMAGED as error:
        raise ValueError(f"{str(path)!r} holds no prepared knowledge, or is damaged: {error}") from error


def unpack_bytes(data: bytes) -> PreparedKnowledge:
    """Read what :func:`pack` returned.

    Raises:
        ValueError: The bytes are damaged.
    """
    try:
        length = int.from_bytes(data[:8], "little")
        info = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["diekae"])
        return _restored(load(data), info)
    except (*_DAMAGED, UnicodeDecodeError) as error:
        raise ValueError(f"these bytes hold no prepared knowledge, or are damaged: {error}") from error


def _restored(tensors: dict[str, Tensor], info: dict[str, Any]) -> PreparedKnowledge:
    if info.get("precision") == "int8":
        for name, dtype in info["types"].items():
            tensors[name] = restore(tensors[name], tensors.pop(name + _SCALE)).to(getattr(torch, dtype))
    return PreparedKnowledge.unflatten(tensors, info)


def quantize(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Return int8 [N, S, …, d] and bf16 scales [N, S, …, d/g]: the largest of g elements becomes 127.

    The error of an element is at most half a scale, which is 1/253 of the largest element of its group.
    """
    grouped = tensor.float().unflatten(-1, (-1, _group(tensor.shape[-1])))
    scale = (grouped.abs().amax(-1) / 127).to(torch.bfloat16)
    divisor = scale.float()[..., None]
    integers = (grouped / torch.where(divisor > 0, divisor, 1.0)).round().clamp(-127, 127).to(torch.int8)
    return integers.flatten(-2), scale


def restore(integers: Tensor, scale: Tensor) -> Tensor:
    """Return fp32 [N, S, …, d] of what :func:`quantize` returned."""
    grouped: Tensor = integers.float().unflatten(-1, (scale.shape[-1], -1)) * scale.float()[..., None]
    return grouped.flatten(-2)


def _group(width: int) -> int:
    """Return g: the largest divisor of the width that is at most GROUP."""
    return next(size for size in range(min(GROUP, width), 0, -1) if width % size == 0)
