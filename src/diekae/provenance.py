"""What every figure is written with: versions and machine, so that it can be read years later."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from diekae.files import write_atomically


def provenance() -> dict[str, Any]:
    """Return versions and machine; nothing that names a person, a host or a path."""
    return {
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("diekae", "torch", "transformers", "accelerate", "tokenizers")},
        },
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
    }


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
