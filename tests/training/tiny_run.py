"""One tiny training run: imported by the tests, and run by them in other processes.

python tiny_run.py '{"folder": …, "prompts": …, "model": {…}, "training": {…}, "resume": …, "pause": …,
    "stop_at": …}'
"""

import faulthandler
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch  # noqa: E402 - the builders are one folder up
from torch import Tensor  # noqa: E402
from transformers import TrainerCallback  # noqa: E402

from builders import make_model, make_prompts  # noqa: E402
from diekae.data.prompt import Prompt  # noqa: E402
from diekae.model import DiekaeModel  # noqa: E402
from diekae.training.config import TrainingConfig  # noqa: E402
from diekae.training.run import leave_processes, train  # noqa: E402

SECONDS = 200
"""Longest run as a process of its own. It must be shorter than the patience of those who wait for it."""


def tiny_prompts(count: int) -> list[Prompt]:
    """Prompts of four lengths."""
    return [prompt for seed in range(-(-count // 4)) for prompt in make_prompts(4, seed=seed)][:count]


def weights(model: DiekaeModel) -> dict[str, Tensor]:
    """A copy of the bank's state."""
    return {name: tensor.clone() for name, tensor in model.bank.state_dict().items()}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor], within: float = 0.0) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=0, atol=within, msg=lambda text, n=name: f"{n}: {text}")


def changed(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return any(not torch.equal(tensor, other[name]) for name, tensor in one.items())


class Pause(TrainerCallback):
    """Waits after each step, so that a kill finds the run at work."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        time.sleep(self.seconds)


class StopAt(TrainerCallback):
    """Ends the run after the checkpoint of a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = state.global_step == self.step


def tiny_run(
    folder: str | Path,
    *,
    prompts: int = 32,
    model: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
    resume: bool = False,
    pause: float = 0.0,
    stop_at: int = 0,
    callbacks: tuple[Any, ...] = (),
) -> tuple[DiekaeModel, list[dict[str, float]]]:
    """Train a tiny bank that starts as the identity."""
    made = make_model(**{"effect": 0.0, **(model or {})})
    config = TrainingConfig(**{"batch_size": 8, "evaluations": 4, "logging_steps": 5, **(training or {})})
    data = tiny_prompts(prompts)
    extra = [*callbacks, *([Pause(pause)] if pause else []), *([StopAt(stop_at)] if stop_at else [])]
    return made, train(made, data, data[:8], config, folder, resume=resume, callbacks=extra)


if __name__ == "__main__":
    faulthandler.dump_traceback_later(SECONDS, exit=True)  # a hang says where it hangs
    options = json.loads(sys.argv[1])
    tiny_run(options.pop("folder"), **options)
    leave_processes()
    # Linux alone has these files; elsewhere nothing is checked.
    threads = [name.read_text().strip() for name in Path("/proc/self/task").glob("*/comm")]
    assert not [name for name in threads if "gloo" in name], f"they may abort the process at its exit: {threads}"
