"""Peak memory of one call: from PyTorch's allocator on a GPU, from the Linux kernel on a CPU."""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")

_RESET_PEAK = "5"
"""Resets the peak resident size to the current one (Linux, proc(5), ``clear_refs``)."""


class PeakMemory(NamedTuple):
    """Memory of a call, in bytes."""

    before: int
    """Allocated before the call: weights, and on a CPU the interpreter too."""
    peak: int
    """Peak during the call."""

    @property
    def added(self) -> int:
        """Return what the call itself added at its peak."""
        return self.peak - self.before


def peak_memory(call: Callable[[], object], device: torch.device | str = "cpu") -> PeakMemory:
    """Run a call, drop its result, and measure its peak memory on the device of its tensors.

    On a CPU this is the resident size of the whole process. So measure in a process that does nothing else, and do not
    tell the C library's allocator to keep freed memory. Memory that earlier calls freed is returned to the system
    first; otherwise the call would use it again without a new peak.

    Raises:
        OSError: On a CPU, this system has no peak that can be reset (only Linux has).
    """
    device = torch.device(device)
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
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
    call()
    return PeakMemory(before, max(before, _resident("VmHWM")))


def _resident(name: str) -> int:
    """Return one of the kernel's figures of this process, in bytes."""
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def _give_back_freed() -> None:
    """Ask the C library to return freed memory to the system; glibc can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
