"""A setting of glibc's allocator: keep freed blocks instead of returning them to the system.

PyTorch allocates every CPU tensor separately. By default glibc maps and unmaps each block of more than 128 kB, so every
step pays for new, zeroed pages. `research/experiments/allocator.py` measures how much. The largest blocks are still
unmapped when they are freed. If they were kept, small blocks would soon take their places, the next large block would
not fit, and the process would grow without end: with the logits of a vocabulary of 152,000 it grew to 15 GB.
"""

import ctypes
import os
import platform

# Constants of malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_PADDING = 256 * 2**20  # bytes
_LARGE = 32 * 2**20  # bytes; the largest threshold that glibc takes


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed blocks of up to 32 MiB for later tensors. Return whether the setting was made.

    It is not made for other C libraries, or if the user sets one of glibc's ``MALLOC_*`` variables.
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(
        mallopt(_MMAP_THRESHOLD, _LARGE) and mallopt(_TRIM_THRESHOLD, 2**31 - 1) and mallopt(_TOP_PAD, _PADDING)
    )
