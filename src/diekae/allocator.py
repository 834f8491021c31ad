"""Keeps the C library's allocator from handing large blocks back to the system after every tensor.

PyTorch allocates each CPU tensor anew. By default glibc maps and unmaps blocks of more than 128 kB, so that every step
pays for fresh, zeroed pages; `research/experiments/allocator.py` measures how much.
"""

from __future__ import annotations

import ctypes
import os
import platform

# malloc.h
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_PADDING = 256 * 2**20


def keep_freed_memory() -> bool:
    """Tell glibc to keep what was freed for the next tensor; returns whether it did.

    Whoever sets one of glibc's ``MALLOC_*`` variables has decided for themselves, and other C libraries are left alone.
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, 2**31 - 1) and mallopt(_TOP_PAD, _PADDING))
