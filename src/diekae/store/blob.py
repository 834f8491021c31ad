"""One memory in one safetensors file: as it is, in bf16, or in int8 with a scale for every slot and head.

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
"""How a memory can be kept."""
GROUP = 64
"""Most elements that share a scale."""
_SCALE = ".scale"


def pack(prepared: PreparedKnowledge, precision: str = "exact") -> bytes:
    """Return the file's content.

    Raises:
        ValueError: The precision is not known.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision={precision!r} is not known; choose one of {', '.join(PRECISIONS)}.")
    whole, info = prepared.flatten()
    info["precision"] = precision
    tensors = {name: tensor.cpu().contiguous() for name, tensor in whole.items()}
    if precision == "bf16":
        tensors = {n: t.to(torch.bfloat16) if t.is_floating_point() else t for n, t in tensors.items()}
    if precision == "int8":
        # The anchor's few slots hold the attention sink, and stay exact.
        info["types"] = {name: name_of(tensor.dtype) for name, tensor in prepared.tensors.items()}
        for name in prepared.tensors:
            tensors[name], tensors[name + _SCALE] = quantize(tensors[name])
    return save(tensors, {"diekae": json.dumps(info)})


def unpack(path: Path) -> PreparedKnowledge:
    """Read a file; what is kept exactly, or in bf16, is mapped and not copied: pages are read when they are used.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file holds no memory, or is damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no memory file at {str(path)!r}.")
    try:
        with safe_open(str(path), framework="pt") as file:
            info = json.loads((file.metadata() or {})["diekae"])
            return _restored({name: file.get_tensor(name) for name in file.keys()}, info)  # noqa: SIM118
    except _DAMAGED as error:
        raise ValueError(f"{str(path)!r} holds no prepared memory, or is damaged: {error}") from error


def unpack_bytes(data: bytes) -> PreparedKnowledge:
    """Read what :func:`pack` returned.

    Raises:
        ValueError: It is damaged.
    """
    try:
        length = int.from_bytes(data[:8], "little")
        info = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["diekae"])
        return _restored(load(data), info)
    except (*_DAMAGED, UnicodeDecodeError) as error:
        raise ValueError(f"no prepared memory, or damaged: {error}") from error


_DAMAGED = (SafetensorError, KeyError, TypeError, AttributeError, json.JSONDecodeError, RuntimeError)


def _restored(tensors: dict[str, Tensor], info: dict[str, Any]) -> PreparedKnowledge:
    if info.get("precision") == "int8":
        for name, kind in info["types"].items():
            tensors[name] = restore(tensors[name], tensors.pop(name + _SCALE)).to(getattr(torch, kind))
    return PreparedKnowledge.unflatten(tensors, info)


def quantize(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Return int8 [N, S, …, d] and bf16 scales [N, S, …, d/g]: the largest of g elements becomes 127.

    Every element is then off by at most half a scale, that is by 1/253 of the largest in its group.
    """
    grouped = tensor.float().unflatten(-1, (-1, _group(tensor.shape[-1])))
    scale = (grouped.abs().amax(-1) / 127).to(torch.bfloat16)
    wide = scale.float()[..., None]
    whole = (grouped / torch.where(wide > 0, wide, 1.0)).round().clamp(-127, 127).to(torch.int8)
    return whole.flatten(-2), scale


def restore(whole: Tensor, scale: Tensor) -> Tensor:
    """Return fp32 [N, S, …, d] of what :func:`quantize` returned."""
    wide: Tensor = whole.float().unflatten(-1, (scale.shape[-1], -1)) * scale.float()[..., None]
    return wide.flatten(-2)


def _group(width: int) -> int:
    """Return the largest divisor of the width that is no larger than GROUP."""
    return next(size for size in range(min(GROUP, width), 0, -1) if width % size == 0)
