"""How much memory is free, so that work that cannot end is refused before it begins."""

import os
import re
from contextlib import suppress
from pathlib import Path

import torch

_MEMINFO, _GROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
_UNLIMITED = 2**62


def free_memory(device: torch.device) -> int:
    """Return the bytes that are free on a device; a very large number if that is unknown."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    return min(_free_on_machine(), _free_in_group()) if device.type == "cpu" else _UNLIMITED


def _free_on_machine() -> int:
    """Return the bytes that programs can still get; all that there are where the system does not say."""
    with suppress(OSError):
        if available := re.search(r"^MemAvailable: +(\d+) kB", _MEMINFO.read_text(), re.MULTILINE):
            return int(available[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _free_in_group() -> int:
    """Return the bytes that are left of the limit of a container."""
    with suppress(OSError, ValueError):  # there is no group, or no limit: "max"
        limit, used = (int((_GROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
        cached = re.search(r"^inactive_file (\d+)", (_GROUP / "memory.stat").read_text(), re.MULTILINE)
        return max(0, limit - used + (int(cached[1]) if cached else 0))
    return _UNLIMITED
