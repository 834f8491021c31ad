"""The allocator keeps freed blocks but the largest, unless the user sets glibc's variables."""

import platform
import subprocess
import sys

import pytest

WORK = """
import resource, sys
import torch
from diekae.allocator import keep_freed_memory
assert keep_freed_memory() is (sys.argv[1] == "keep"), "the result says whether the setting was made"
for _ in range(20):  # until the blocks have found their place on the heap
    torch.ones(2**22)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(2**22)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

# The kernel's figure of the process itself: that of `resource` begins with the memory of the parent.
LARGE = """
import torch
from diekae.allocator import keep_freed_memory
assert keep_freed_memory()
small = []
for _ in range(20):
    torch.ones(2**24)
    small.append(torch.ones(2**10))
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
glibc_only = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is made for glibc only")


@glibc_only
def test_small_blocks_in_the_place_of_large_ones_do_not_let_the_process_grow() -> None:
    done = subprocess.run([sys.executable, "-c", LARGE], env={}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 0.9e6, "twenty blocks of 67 MB, one after the other, are 1.3 GB if each has its own place"


@glibc_only
def test_freed_blocks_are_reused_unless_the_user_sets_malloc_variables() -> None:
    def faults(way: str, **environment: str) -> int:
        done = subprocess.run([sys.executable, "-c", WORK, way], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    kept, left = faults("keep"), faults("leave", MALLOC_MMAP_THRESHOLD_="131072")
    assert kept < left / 4 and left > 10_000, "sixteen megabytes are thousands of pages"
