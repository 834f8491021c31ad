"""Provenance: the versions, code and machine that every result is stored with."""

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
"""Packages whose versions are stored, if they are installed."""


def provenance() -> dict[str, Any]:
    """Return versions, code and machine, without anything that names a person, a host or a path."""
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
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


@functools.cache
def code_digest(root: Path = Path(__file__).parent, suffixes: tuple[str, ...] = (".py",)) -> str:
    """Return a digest of a package's source files, which change between releases while its version does not."""
    sha256 = hashlib.sha256()
    for path in sorted(path for path in root.rglob("*") if path.suffix in suffixes):
        content = path.read_bytes()
        sha256.update(f"{path.relative_to(root).as_posix()} {len(content)}\n".encode() + content)
    return sha256.hexdigest()[:16]


def digest(values: Any) -> str:
    """Return a short digest of JSON values, independent of the order of keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def name_of(dtype: torch.dtype) -> str:
    """Return the name of a type, such as ``float32``."""
    return str(dtype).removeprefix("torch.")


def write_json(path: str | Path, result: dict[str, Any]) -> None:
    """Write a result as JSON, with its provenance."""
    write_atomically(Path(path), json.dumps({**result, **provenance()}, indent=2) + "\n")
