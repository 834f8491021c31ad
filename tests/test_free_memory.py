"""How much memory is free: of the machine, and of a container with a limit."""

import os
from pathlib import Path

import pytest
import torch

from diekae import free_memory as module
from diekae.free_memory import free_memory

CPU = torch.device("cpu")


def test_less_is_free_than_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    everything = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < free_memory(CPU) < everything
    monkeypatch.setattr(module, "_MEMINFO", Path("/nowhere"))
    monkeypatch.setattr(module, "_GROUP", Path("/nowhere"))
    assert free_memory(CPU) == everything
    assert free_memory(torch.device("meta")) > everything, "unknown"


def test_the_limit_of_a_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_GROUP", tmp_path)
    unlimited = free_memory(CPU)
    for name, text in {"max": "9000", "current": "7000", "stat": "anon 1\ninactive_file 500\nkernel 2\n"}.items():
        (tmp_path / f"memory.{name}").write_text(text)
    assert free_memory(CPU) == 2500 < unlimited
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory(CPU) > 2500
