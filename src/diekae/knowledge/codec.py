"""Tensors as safetensors bytes: exactly, in bf16, or in int8 with one scale per group of elements.

The metadata hold a SHA-256 of the whole file, taken while zeros stand in its place. So any changed byte is noticed.

Shapes: N encoders, S slots, d the last dimension, g elements that share a scale.
"""

import hashlib
import io
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from diekae.fields import check_choice
from diekae.files import read_once
from diekae.provenance import name_of

Precision = Literal["exact", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
"""How floating-point tensors can be stored."""
GROUP = 64
"""Most elements that share a scale."""
_SCALE = ".scale"
_METADATA = "diekae.checked"
_UNCHECKED = "diekae"
"""Name of the metadata in files of older versions, most of which hold no digest."""
_DIGEST = "sha256"
_ZEROS = "0" * 64
_LONGEST_HEADER = 10**8
"""Most bytes of a header, as in the safetensors library."""
_BLOCK = 2**20


class DigestError(ValueError):
    """A file is not the one that was written."""


DAMAGED = (
    DigestError,
    SafetensorError,
    KeyError,
    TypeError,
    AttributeError,
    RuntimeError,
    json.JSONDecodeError,
    UnicodeDecodeError,
)
"""Errors that mean that bytes or a file were not written by :func:`encode`, or are damaged."""


def encode(
    tensors: Mapping[str, Tensor], info: Mapping[str, Any], precision: str = "exact", quantized: Collection[str] = ()
) -> bytes:
    """Return tensors, on any device, and JSON values as the content of one safetensors file.

    The precision ``int8`` applies to the tensors that ``quantized`` names; the others stay exact.

    Raises:
        ValueError: The precision is unknown.
    """
    check_choice(f"precision={precision!r}", precision, PRECISIONS)
    stored = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    info = {**info, "precision": precision}
    if precision == "bf16":
        stored = {n: t.to(torch.bfloat16) if t.is_floating_point() else t for n, t in stored.items()}
    if precision == "int8":
        info["types"] = {name: name_of(tensors[name].dtype) for name in quantized}
        for name in quantized:
            stored[name], stored[name + _SCALE] = quantize(stored[name])
    content = save(stored, {_METADATA: json.dumps({_DIGEST: _ZEROS, **info})})
    # Spliced into the bytes: saving again would be slow, and might order the tensors in another way.
    start = content.index(_ZEROS.encode())
    return content[:start] + hashlib.sha256(content).hexdigest().encode() + content[start + len(_ZEROS) :]


def decode(data: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and JSON values that :func:`encode` was given.

    Raises:
        DAMAGED: The bytes were not written by :func:`encode`, or are damaged.
    """
    info = _check(io.BytesIO(data))
    return _restore_all(load(data), info), info


def decode_file(path: Path, *, check: bool = True) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and JSON values of a file; raises as :func:`decode`.

    Tensors stored exactly or in bf16 are memory-mapped, not copied: their pages are read when they are used. With
    ``check`` the content is compared with its digest; once, as long as the file's state stays the same.
    """
    if check:
        read_once(path, _check)
    with safe_open(str(path), framework="pt") as file:
        info = _info(file.metadata())
        return _restore_all({name: file.get_tensor(name) for name in file.keys()}, info), info  # noqa: SIM118


def _info(metadata: Mapping[str, str] | None) -> dict[str, Any]:
    """Return the JSON values in a file's metadata."""
    metadata = metadata or {}
    info: dict[str, Any] = json.loads(metadata[_METADATA if _METADATA in metadata else _UNCHECKED])
    return info


def _check(file: BinaryIO) -> dict[str, Any]:
    """Compare a file with its digest, and return its JSON values; raises as :func:`decode`."""
    prefix = file.read(8)
    length = int.from_bytes(prefix, "little")
    if length > _LONGEST_HEADER:
        raise DigestError(f"its header has {length:,} bytes")
    header = file.read(length)
    metadata = json.loads(header)["__metadata__"]
    info = _info(metadata)
    if _METADATA in metadata or _DIGEST in info:
        digest = hashlib.sha256(prefix + header.replace(info[_DIGEST].encode(), _ZEROS.encode(), 1))
        while block := file.read(_BLOCK):
            digest.update(block)
        if digest.hexdigest() != info[_DIGEST]:
            raise DigestError("it does not have the digest that was written")
    return info


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
