"""What every figure is written with: versions, code and machine, so that it can be read years later."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from diekae.files import write_atomically

PACKAGES = ("diekae", "diekae-research", "torch", "transformers", "accelerate", "tokenizers", "peft")
"""Whose versions are told, where they are installed."""


def provenance() -> dict[str, Any]:
    """Return versions, code and machine; nothing that names a person, a host or a path.

    A stored result is reused only where all of this is what it was; see :func:`key_of`.
    """
    return {
        "versions": {"python": platform.python_version(), **_versions()},
        "code": code_digest(),
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@functools.cache
def code_digest(root: Path = Path(__file__).parent) -> str:
    """Return a digest of a package's source files: between two releases the version alone does not change."""
    found = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        content = path.read_bytes()
        found.update(f"{path.relative_to(root).as_posix()} {len(content)}\n".encode() + content)
    return found.hexdigest()[:16]


def digest(values: Any) -> str:
    """Return a short digest of JSON values, whatever the order of their keys.

    Raises:
        TypeError: Something is no JSON value.
    """
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def key_of(values: Any) -> str:
    """Return what names a stored result: a digest of all that it depends on, and of :func:`provenance`."""
    return digest([values, provenance()])


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def name_of(dtype: torch.dtype) -> str:
    """Return a type's name for a result: ``float32``."""
    return str(dtype).removeprefix("torch.")


def write_json(path: str | Path, result: dict[str, Any]) -> None:
    """Write a result with its provenance."""
    write_atomically(Path(path), json.dumps({**result, **provenance()}, indent=2) + "\n")
