"""Peak memory of a call, and what is free."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch

import diekae.run.peak_memory as peak_memory_module
from diekae.run.peak_memory import free_memory, peak_memory


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


def test_free_memory_is_the_kernels_figure_or_what_a_container_has_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 5000 kB\n")
    monkeypatch.setattr(peak_memory_module, "_FREE", tmp_path / "meminfo")
    monkeypatch.setattr(peak_memory_module, "_GROUP", tmp_path)
    assert free_memory() == 5000 * 1024
    for name, text in (("max", "max"), ("current", "900000"), ("stat", "active_file 7\ninactive_file 100000\n")):
        (tmp_path / f"memory.{name}").write_text(text)
    assert free_memory() == 5000 * 1024, "a container without a limit"
    (tmp_path / "memory.max").write_text("1000000")
    assert free_memory() == 200_000, "the cache of files can be given back"
    monkeypatch.setattr(peak_memory_module, "_FREE", tmp_path / "none")
    assert free_memory() is None
