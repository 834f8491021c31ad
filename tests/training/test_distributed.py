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
from torch import Tensor

from tiny_run import tiny_run

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("tiny_run.py")


def bank(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "bank" / "bank.safetensors")


def run_two(folder: Path, **options: Any) -> str:
    """Run the script in two processes with gloo; a hang is ended, with whatever was said."""
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


@pytest.mark.parametrize("objective", ["difference", "cross_entropy"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_two_processes_of_four_are_one_of_eight(tmp_path: Path, objective: str, accumulation: int) -> None:
    training = {"objective": objective, "max_steps": 6, "gradient_accumulation": accumulation, "evaluations": 2}
    _, log = tiny_run(tmp_path / "one", prompts=48, training={**training, "batch_size": 8})
    run_two(tmp_path / "two", prompts=48, training={**training, "batch_size": 4})
    one, two = bank(tmp_path / "one"), bank(tmp_path / "two")
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-6, msg=lambda text, n=name: f"{n}: {text}")
    assert any(float(tensor.abs().max()) > 1e-4 for name, tensor in one.items() if name.endswith("up.weight"))
    events = list((tmp_path / "two" / "tensorboard").iterdir())
    assert len(events) == 1, "one process writes the log"


def test_early_stopping_stops_both(tmp_path: Path) -> None:
    still = {"learning_rate": 1e-12, "start_learning_rate": 1e-12, "final_learning_rate": 1e-12}
    training = {"max_steps": 40, "evaluations": 8, "patience": 1, "batch_size": 4, **still}
    run_two(tmp_path, training=training, prompts=44)
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-10", "checkpoint-5"]
    assert (tmp_path / "bank").is_dir()


def test_two_processes_share_one_cache_and_resume_together(tmp_path: Path) -> None:
    training = {"max_steps": 8, "evaluations": 2, "batch_size": 4, "cache": str(tmp_path / "cache")}
    run_two(tmp_path / "run", training=training)
    first = bank(tmp_path / "run")
    assert len(list((tmp_path / "cache").iterdir())) == 2
    (tmp_path / "run" / "checkpoint-8" / "trainer_state.json").unlink()
    run_two(tmp_path / "run", training=training, model={"seed": 9}, resume=True)
    for name, tensor in bank(tmp_path / "run").items():
        torch.testing.assert_close(tensor, first[name], rtol=0, atol=1e-6)
