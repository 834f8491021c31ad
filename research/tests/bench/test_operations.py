"""Operations of a pass against the committed baseline: what grows here is slower everywhere.

`operations.json` is written by `python tests/bench/test_operations.py`; commit it with the reason for the change.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from builders import make_decoder
from diekae.prepare import read_documents
from diekae_research.bench import Bench, floor
from diekae_research.bench.train import DifferenceObjective, random_data

BASELINE = Path(__file__).with_name("operations.json")
SLACK = 1.02
"""Other versions of PyTorch call a few kernels more or less."""
LAYERS = {"token": (0, 1), "reader": (1, 3), "attention": (1, 3), "exact": "all"}


class Calls(TorchDispatchMode):
    """Counts calls of kernels: what a pass of a small batch costs is mostly their number."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def passes() -> dict[str, tuple[Callable[[], object], bool]]:
    """What is counted, and whether gradients are taken."""
    bench = Bench(make_decoder(max_position_embeddings=512), LAYERS, inputs=6)
    found: dict[str, tuple[Callable[[], object], bool]] = {"bare": (bench.bare(bench.question()), False)}
    for name in LAYERS:
        model = bench.model(name)
        prepared, known, ids = bench.prepared(model, 128), bench.ids(128).tolist(), bench.question()

        def decode(model=model, prepared=prepared, ids=ids):
            with model.behind(prepared, ids, scope="all"):
                cache = bench.decoder(input_ids=ids, use_cache=True).past_key_values
                for _ in range(4):
                    bench.decoder(input_ids=bench.ids(1), past_key_values=cache, use_cache=True)

        found[f"{name} pass"] = (
            lambda model=model, prepared=prepared, ids=ids: model(ids, knowledge=prepared, use_cache=True),
            False,
        )
        found[f"{name} pass and four tokens"] = decode, False
        found[f"{name} prepare"] = (
            lambda model=model, known=known: read_documents(model.attached, model.anchor, known),
            False,
        )
        if name == "exact":  # nothing to train
            continue
        objective = DifferenceObjective(model)
        batch = random_data(bench, model, {"rows": 2, "knowledge": 64, "target": 3}).batch()
        found[f"{name} training step"] = (
            lambda objective=objective, batch=batch: objective(**batch).loss.backward(),
            True,
        )
    return found


def count() -> dict[str, dict[str, int]]:
    counted = {}
    for name, (run, gradients) in passes().items():
        with torch.set_grad_enabled(gradients):
            run()  # what is worked out once, such as a fingerprint
        products = floor.operations(run, gradients=gradients)
        with Calls() as calls, torch.set_grad_enabled(gradients):
            run()
        held = floor.peak_bytes(run) if not gradients else 0
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
        name: (found[kind], baseline[name][kind])
        for name, found in counted.items()
        if found[kind] > slack * baseline[name][kind]
    }
    assert not more, f"more {kind} than in {BASELINE.name}: {more}"


def test_the_watchman_sees(counted: dict[str, dict[str, int]]) -> None:
    assert counted["reader pass"]["operations"] > counted["bare"]["operations"] > 0
    assert counted["reader pass"]["calls"] > counted["bare"]["calls"] > 100
    assert counted["token prepare"]["bytes_held"] > 0


if __name__ == "__main__":
    BASELINE.write_text(json.dumps(count(), indent=2) + "\n")
