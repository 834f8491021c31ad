"""Operations of every kind of pass against a committed baseline: more of them is slower on any machine.

`python research/tests/bench/test_operations.py` writes `operations.json`; commit it with the reason for the change.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from builders import make_decoder
from diekae.prepare import read_documents
from diekae.training.objectives import difference_objective
from diekae_research.bench import Bench, counters
from diekae_research.bench.steps import random_batch

BASELINE = Path(__file__).with_name("operations.json")
SLACK = 1.02
"""Allowed growth: other versions of PyTorch call a few more or fewer kernels."""
LAYERS = {"token": (0, 1), "reader": (1, 3), "attention": (1, 3), "exact": "all"}


class Calls(TorchDispatchMode):
    """Counts calls of kernels; their number is most of the cost of a small batch."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def passes() -> dict[str, tuple[Callable[[], object], bool]]:
    """Calls by name, and whether each needs gradients."""
    bench = Bench(make_decoder(max_position_embeddings=512), LAYERS, inputs=6)
    calls_by_name: dict[str, tuple[Callable[[], object], bool]] = {"bare": (bench.bare(bench.question()), False)}
    for name in LAYERS:
        model = bench.model(name)
        prepared, known, ids = bench.prepared(model, 128), bench.ids(128).tolist(), bench.question()

        def decode(model=model, prepared=prepared, ids=ids):
            with model.call_context(prepared, ids, scope="all"):
                cache = bench.decoder(input_ids=ids, use_cache=True).cache
                for _ in range(4):
                    bench.decoder(input_ids=bench.ids(1), cache=cache, use_cache=True)

        calls_by_name[f"{name} pass"] = (
            lambda model=model, prepared=prepared, ids=ids: model(ids, knowledge=prepared, use_cache=True),
            False,
        )
        calls_by_name[f"{name} pass and four tokens"] = decode, False
        calls_by_name[f"{name} prepare"] = (
            lambda model=model, known=known: read_documents(model.attached, model.anchor, known),
            False,
        )
        if name == "exact":  # nothing to train
            continue
        objective = difference_objective(model)
        batch = random_batch(bench, model, {"rows": 2, "knowledge": 64, "target": 3})
        calls_by_name[f"{name} training step"] = (
            lambda objective=objective, batch=batch: objective(**batch).loss.backward(),
            True,
        )
    return calls_by_name


def count() -> dict[str, dict[str, int]]:
    counted = {}
    for name, (run, gradients) in passes().items():
        with torch.set_grad_enabled(gradients):
            run()  # so that values computed only once, such as a fingerprint, are not counted
        products = counters.operations(run, gradients=gradients)
        with Calls() as calls, torch.set_grad_enabled(gradients):
            run()
        held = counters.peak_bytes(run) if not gradients else 0
        counted[name] = {"operations": products, "calls": calls.count, "bytes_held": held}
    return counted


@pytest.fixture(scope="module")
def counted() -> dict[str, dict[str, int]]:
    return count()


@pytest.mark.parametrize("kind", ["operations", "calls", "bytes_held"])
def test_no_pass_does_more_than_the_baseline(counted: dict[str, dict[str, int]], kind: str) -> None:
    baseline = json.loads(BASELINE.read_text())
    assert set(baseline) == set(counted)
    slack = 1.0 if kind == "operations" else SLACK
    more = {
        name: (calls_by_name[kind], baseline[name][kind])
        for name, calls_by_name in counted.items()
        if calls_by_name[kind] > slack * baseline[name][kind]
    }
    assert not more, f"more {kind} than in {BASELINE.name}: {more}"


def test_the_counts_differ_where_work_differs(counted: dict[str, dict[str, int]]) -> None:
    assert counted["reader pass"]["operations"] > counted["bare"]["operations"] > 0
    assert counted["reader pass"]["calls"] > counted["bare"]["calls"] > 100
    assert counted["token prepare"]["bytes_held"] > 0


if __name__ == "__main__":
    BASELINE.write_text(json.dumps(count(), indent=2) + "\n")
