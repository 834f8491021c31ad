"""Decisions before a bank is trained: which layers read K, which batch fits into memory, how many steps fit the time.

They rest on measurements of the user's decoder on the user's machine.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from accelerate.utils.memory import clear_device_cache
from transformers import PreTrainedModel, TrainerCallback

from diekae.config import DiekaeConfig
from diekae.data.prompt import Prompt
from diekae.evaluation.layers import visible_nll
from diekae.inject.hookpoints import find_blocks
from diekae.inject.hooks import frozen
from diekae.model import DiekaeModel
from diekae.progress import Progress, silent
from diekae.run.score import lay_out
from diekae.training.objectives import DistillObjective

RANK, WIDTH = 64, 64
"""Rank of the change of keys and values, and width of the MLPs."""
FEWEST_STEPS, MOST_STEPS = 10, 2000
VALIDATION = 16
"""Questions that a validation scores."""
VALIDATIONS = 2


@dataclass(frozen=True)
class Pace:
    """How fast training is on this machine."""

    batch_size: int
    """Examples at once; halved until they fit into memory."""
    accumulation: int
    """Batches a step, so that a step has the number of examples that the user wants."""
    seconds: float
    """Seconds a step."""


def choose_layers(
    decoder: PreTrainedModel, prompts: Sequence[Prompt], count: int, progress: Progress = silent
) -> tuple[int, ...]:
    """Return the layers in which K matters most, in order: the NLL rises most if K is hidden from that layer alone.

    The decoder's tokens must exchange information by attention alone. Do not report results on these examples.
    """
    depth = len(find_blocks(decoder))
    if count >= depth:
        return tuple(range(depth))
    without = [tuple(layer for layer in range(depth) if layer != missing) for missing in range(depth)]
    with frozen(decoder):
        losses = visible_nll(decoder, prompts, without, progress=progress)
    ranked = sorted(range(depth), key=lambda layer: losses[layer], reverse=True)
    return tuple(sorted(ranked[:count]))


def measure_pace(model: DiekaeModel, prompts: Sequence[Prompt], batch_size: int, at_once: int) -> Pace:
    """Time steps of distillation with a bank that stays as it is; the batch is halved until it fits (MemoryError)."""
    size = min(at_once, batch_size)
    while True:
        try:
            seconds = _step_seconds(model, prompts, size)
            break
        except (MemoryError, RuntimeError) as error:  # PyTorch's OutOfMemoryError is a RuntimeError
            if isinstance(error, RuntimeError) and "memory" not in str(error).lower():
                raise
            if size == 1:
                raise MemoryError("not even one example fits into memory; choose a smaller decoder.") from error
            size //= 2
            clear_device_cache(garbage_collection=True)
    accumulation = max(1, batch_size // size)
    return Pace(size, accumulation, seconds * accumulation)


def _step_seconds(model: DiekaeModel, prompts: Sequence[Prompt], size: int) -> float:
    """Return seconds of one forward and backward pass, the mean over short and long examples, warmed up."""
    order = sorted(prompts, key=lambda prompt: len(prompt.knowledge))
    places = (len(order) // 2, len(order) // 4, 3 * len(order) // 4)
    taken = []
    with frozen(model.decoder):
        for place in places:
            rows = [order[(place + row) % len(order)] for row in range(size)]
            begun = time.perf_counter()
            take_step(model, rows)
            taken.append(time.perf_counter() - begun)
    return sum(taken[1:]) / len(taken[1:])


def take_step(model: DiekaeModel, prompts: Sequence[Prompt]) -> None:
    """Make the forward and backward pass of a training step; the bank stays as it is."""
    DistillObjective(model, whole_input=True)(**lay_out(model, prompts)).loss.backward()
    model.bank.zero_grad(set_to_none=True)


def fit_steps(
    minutes_left: float, seconds_a_step: float, examples: int, validation: int, step_size: int, most_epochs: float
) -> int:
    """Return how many steps fit the minutes that are left, in at most so many epochs.

    The time of `VALIDATIONS` is set aside, and once more as much: before the first, D(x) and D(K, x) are measured.

    Raises:
        ValueError: Not even a few steps fit.
    """
    validating = (VALIDATIONS + 1) * min(VALIDATION, validation) / step_size
    fitting = int(60 * minutes_left / seconds_a_step - validating)
    if fitting < FEWEST_STEPS:
        raise ValueError(
            f"{minutes_left:.1f} minutes are left for training and a step takes {seconds_a_step:.1f} s; at least "
            f"{FEWEST_STEPS} steps and {validating:.0f} for validating are needed. Give more --minutes, or a smaller "
            "--batch-size; with --resume, the questions are not asked again."
        )
    return max(FEWEST_STEPS, min(fitting, MOST_STEPS, int(most_epochs * examples / step_size)))


class Deadline(TrainerCallback):
    """Ends training when its time is over: the machine may have become slower since it was measured."""

    def __init__(self, time: float) -> None:
        """End training at this time, by ``time.monotonic``."""
        self.time = time

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Stop after a validation and a checkpoint."""
        if time.monotonic() > self.time:
            control.should_training_stop = control.should_evaluate = control.should_save = True


def bank_config(layers: Sequence[int], chat: bool, template: str) -> DiekaeConfig:
    """Return the configuration of the bank that is trained."""
    return DiekaeConfig(
        layers=tuple(layers),
        encoder="attention",
        encoder_options={"rank": RANK, "mlp_width": WIDTH},
        site="attention",
        scope="all",
        format="chat" if chat else "qa",
        template=template,
    )
