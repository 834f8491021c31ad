"""Decisions before a bank is trained: which layers read K, which batch fits into memory, how many steps fit the time.

They rest on measurements of the user's decoder on the user's machine.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate.utils.memory import clear_device_cache
from transformers import PreTrainedModel, TrainerCallback

from diekae.config import DiekaeConfig
from diekae.data.prompt import Prompt
from diekae.evaluation.visible_layers import visible_nll
from diekae.inject.hookpoints import find_blocks
from diekae.inject.hooks import frozen
from diekae.model import DiekaeModel
from diekae.progress import Progress, silent
from diekae.run.score import lay_out
from diekae.training.objectives import DistillObjective

SHARE = 0.8
"""Share of the layers that read K if the user names none: with fewer, a decoder of 135M answers worse."""
RANK, WIDTH = 64, 64
"""Rank of the change of keys and values, and width of the MLPs."""
FEWEST_STEPS, MOST_STEPS = 10, 2000
VALIDATION = 16
"""Questions that a validation scores."""
VALIDATIONS = 2
"""Validations during training."""
SPARE = 2.0
"""Disk space that is needed, as a multiple of the size of a checkpoint."""


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

    Args:
        decoder: A causal decoder in which tokens exchange information by attention alone.
        prompts: Examples with knowledge. Do not use them to report results.
        count: Layers to choose.
        progress: Called after each layer.
    """
    depth = len(find_blocks(decoder))
    if count >= depth:
        return tuple(range(depth))
    without = [tuple(layer for layer in range(depth) if layer != missing) for missing in range(depth)]
    with frozen(decoder):
        losses = visible_nll(decoder, prompts, without, progress=progress)
    ranked = sorted(range(depth), key=lambda layer: losses[layer], reverse=True)
    return tuple(sorted(ranked[:count]))


def count_layers(depth: int, layers: int | None, bytes_per_token: int | None, bytes_per_layer: int) -> int:
    """Return how many layers are to read K.

    Args:
        depth: Layers of the decoder.
        layers: The number that the user wants, if any.
        bytes_per_token: Most bytes of prepared knowledge for a token of K that the user wants, if any.
        bytes_per_layer: Bytes of prepared knowledge for a token of K in one layer.

    Raises:
        ValueError: Both are given, the decoder has fewer layers, or the bytes do not suffice for one layer.
    """
    if layers is not None and bytes_per_token is not None:
        raise ValueError("--layers and --bytes-per-token both say how many layers read K; give one of them.")
    if layers is not None:
        if not 1 <= layers <= depth:
            raise ValueError(f"--layers {layers} must be from 1 to the decoder's {depth}.")
        return layers
    if bytes_per_token is not None:
        if bytes_per_token < bytes_per_layer:
            raise ValueError(
                f"--bytes-per-token {bytes_per_token} is less than one layer takes ({bytes_per_layer} bytes)."
            )
        return min(depth, bytes_per_token // bytes_per_layer)
    return max(1, round(SHARE * depth))


def measure_pace(model: DiekaeModel, prompts: Sequence[Prompt], batch_size: int) -> Pace:
    """Time steps of distillation; the batch is halved until it fits into memory.

    Args:
        model: Decoder and an untrained bank, which stays as it is.
        prompts: Examples as training has them.
        batch_size: Examples a step.

    Raises:
        MemoryError: Not even one example fits.
    """
    size = batch_size
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
    objective = DistillObjective(model, whole_input=True)
    order = sorted(prompts, key=lambda prompt: len(prompt.knowledge))
    places = (len(order) // 2, len(order) // 4, 3 * len(order) // 4)
    taken = []
    with frozen(model.decoder):
        for place in places:
            rows = [order[(place + row) % len(order)] for row in range(size)]
            batch = lay_out(model, rows)
            begun = time.perf_counter()
            objective(**batch).loss.backward()
            model.bank.zero_grad(set_to_none=True)
            taken.append(time.perf_counter() - begun)
    return sum(taken[1:]) / len(taken[1:])


def fit_steps(
    minutes_left: float, seconds_a_step: float, examples: int, validation: int, step_size: int, most_epochs: float
) -> int:
    """Return how many steps fit the time that is left.

    The time of `VALIDATIONS` is set aside, and once more as much: before the first, D(x) and D(K, x) are measured.

    Args:
        minutes_left: Time for training.
        seconds_a_step: From :func:`measure_pace`.
        examples: Questions to train on.
        validation: Questions to validate on.
        step_size: Questions of a step.
        most_epochs: Most passes over the questions.

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


def check_disk(folder: Path, parameters: int) -> None:
    """Check that the disk has room for checkpoints: the bank and AdamW's two moments, each in fp32.

    Raises:
        OSError: They do not.
    """
    folder.mkdir(parents=True, exist_ok=True)
    needed, free = SPARE * 3 * 4 * parameters + 50e6, shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(f"{str(folder)!r} has {free / 1e6:.0f} MB free, and training needs about {needed / 1e6:.0f} MB.")


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
