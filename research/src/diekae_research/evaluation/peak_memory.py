"""Peak memory of one call, measured: by the allocator on a GPU, by the kernel's own mark on a CPU."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
"""Sets the peak resident size back to the present one (Linux, proc(5), ``clear_refs``)."""


class PeakMemory(NamedTuple):
    """Bytes that a call needed."""

    before: int
    """Held when the call began: weights, and on a CPU the interpreter too."""
    peak: int
    """Most held at any time during the call."""

    @property
    def added(self) -> int:
        """Return what the call itself took at its peak."""
        return self.peak - self.before


def peak_memory(call: Callable[[], object], device: torch.device | str = "cpu") -> PeakMemory:
    """Run a call under ``no_grad`` and measure its peak memory.

    On a CPU this is the resident size of the whole process, so measure in a process that does nothing else, and leave
    the C library's allocator as it is: one that is told to keep freed memory scatters tensors and holds more. What
    earlier calls freed is handed back to the system first, or it would be used again without being seen.

    Args:
        call: Run once; what it returns is dropped.
        device: Where its tensors live.

    Raises:
        OSError: On a CPU, this system keeps no peak that can be set back (only Linux does).
    """
    device = torch.device(device)
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        _run(call)
        torch.cuda.synchronize(device)
        return PeakMemory(before, torch.cuda.max_memory_allocated(device))
    _give_back_freed()
    try:
        _CLEAR.write_text(_RESET_PEAK)
        before = _resident("VmRSS")
    except OSError as error:
        raise OSError(
            f"the peak memory of this process cannot be measured: {_CLEAR} cannot be written ({error}). Measure on "
            "Linux, or on a GPU."
        ) from error
    _run(call)
    return PeakMemory(before, max(before, _resident("VmHWM")))


@torch.no_grad()
def _run(call: Callable[[], object]) -> None:
    call()


def _resident(name: str) -> int:
    """Return one of the kernel's figures about this process, in bytes."""
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def _give_back_freed() -> None:
    """Ask the C library to return freed memory to the system, if it knows how (glibc does)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
