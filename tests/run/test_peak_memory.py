"""Peak memory of a call."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import torch

from diekae.run.peak_memory import peak_memory


def test_peak_memory_is_the_most_a_call_allocates_at_once() -> None:
    """In a process of its own, for another test may have told this one's allocator to keep what is freed."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        pool.submit(check_peak_memory).result()


def check_peak_memory() -> None:
    size = 64 * 2**20

    def call() -> None:
        first = torch.zeros(size // 4)
        del first
        second = torch.zeros(size // 4)
        third = second + 1
        del second, third

    found = peak_memory(call)
    assert 2 * size * 0.98 < found.added < 2 * size * 1.1
    assert peak_memory(lambda: None).added < size / 8, "the peak of the call before is forgotten"
