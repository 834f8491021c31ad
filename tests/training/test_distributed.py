"""Two processes of half the batch are one process of the whole batch."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_run import tiny_run
from torch import Tensor

from builders import make_model

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("tiny_run.py")


def bank(folder: Path) -> dict[str, Tensor]:
    return load_file(next((folder / "bank").glob("bank-*.safetensors")))


def run_two(folder: Path, **options: Any) -> str:
    """Run the script in two processes with gloo; a hang ends after the timeout."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", str(SCRIPT)]
    done = subprocess.run(
        [*command, json.dumps({"folder": str(folder), **options})],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.mark.parametrize(
    ("objective", "accumulation"),
    [
        ("difference", 1),
        ("cross_entropy", 2),
        pytest.param("difference", 2, marks=pytest.mark.long),
        pytest.param("cross_entropy", 1, marks=pytest.mark.long),
    ],
)
def test_two_processes_of_batch_size_four_equal_one_of_eight(tmp_path: Path, objective: str, accumulation: int) -> None:
    training = {"objective": objective, "max_steps": 6, "gradient_accumulation": accumulation, "evaluations": 2}
    # Not from the identity, see test_accumulation_equals_one_large_batch.
    options: dict[str, Any] = {"prompts": 48, "model": {"effect": 0.05}}
    tiny_run(tmp_path / "one", training={**training, "batch_size": 8}, **options)
    run_two(tmp_path / "two", training={**training, "batch_size": 4}, **options)
    one, two = bank(tmp_path / "one"), bank(tmp_path / "two")
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-6, msg=lambda text, n=name: f"{n}: {text}")
    untrained = make_model(effect=0.05).bank.state_by_layer()
    assert all(not torch.equal(tensor, untrained[name]) for name, tensor in one.items() if "weight" in name)
    events = list((tmp_path / "two" / "tensorboard").iterdir())
    assert len(events) == 1, "one process writes the log"


def test_epochs_count_the_examples_of_all_processes_and_they_share_one_cache(tmp_path: Path) -> None:
    training = {"epochs": 2, "evaluations": 2, "cache": str(tmp_path / "cache")}
    tiny_run(tmp_path / "one", training={**training, "batch_size": 8})
    run_two(tmp_path / "two", training={**training, "batch_size": 4, "cache": str(tmp_path / "cache2")})
    for run in ("one", "two"):
        assert (tmp_path / run / "checkpoint-8").is_dir(), "two epochs of 32 examples in batches of 8"
    one, two = bank(tmp_path / "one"), bank(tmp_path / "two")
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-6)
    assert len(list((tmp_path / "cache2").iterdir())) == 2, "training and validation"


def test_early_stopping_stops_both_processes(tmp_path: Path) -> None:
    still = {"learning_rate": 1e-12, "start_learning_rate": 1e-12, "final_learning_rate": 1e-12}
    training = {"max_steps": 40, "evaluations": 8, "patience": 1, "batch_size": 4, **still}
    run_two(tmp_path, training=training, prompts=44)
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-10", "checkpoint-5"]
    assert (tmp_path / "bank").is_dir()


@pytest.mark.parametrize("grouped", [pytest.param(False, marks=pytest.mark.long), True])
def test_two_processes_resume_in_the_middle_of_an_epoch_bit_for_bit(tmp_path: Path, grouped: bool) -> None:
    training = {"max_steps": 9, "evaluations": 3, "batch_size": 4, "group_by_length": grouped}
    run_two(tmp_path / "alone", training=training, prompts=44)
    run_two(tmp_path / "stopped", training=training, prompts=44, stop_at=6)
    run_two(tmp_path / "stopped", training=training, prompts=44, model={"seed": 9}, resume=True)
    for name, tensor in bank(tmp_path / "stopped").items():
        assert torch.equal(tensor, bank(tmp_path / "alone")[name]), name


def test_grouping_by_length_gives_two_processes_the_steps_of_one(tmp_path: Path) -> None:
    training = {"max_steps": 6, "evaluations": 2, "group_by_length": True}
    options: dict[str, Any] = {"prompts": 48, "model": {"effect": 0.05}}
    tiny_run(tmp_path / "one", training={**training, "batch_size": 8}, **options)
    run_two(tmp_path / "two", training={**training, "batch_size": 4}, **options)
    for name, tensor in bank(tmp_path / "one").items():
        torch.testing.assert_close(bank(tmp_path / "two")[name], tensor, rtol=0, atol=1e-6)


def test_two_processes_resume_together(tmp_path: Path) -> None:
    training = {"max_steps": 8, "evaluations": 2, "batch_size": 4}
    run_two(tmp_path, training=training)
    first = bank(tmp_path)
    (tmp_path / "checkpoint-8" / "trainer_state.json").unlink()
    run_two(tmp_path, training=training, model={"seed": 9}, resume=True)
    for name, tensor in bank(tmp_path).items():
        torch.testing.assert_close(tensor, first[name], rtol=0, atol=1e-6)
