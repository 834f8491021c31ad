"""What a bank of one's own costs before it is trained: which layers read, how many steps fit the time, how much memory.

Everything is measured on the decoder at hand, on the machine that trains.
"""

from __future__ import annotations

import gc
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

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
"""Share of the layers that read unless told otherwise: with fewer, a decoder of 135M answers worse."""
RANK, WIDTH = 64, 64
"""Rank of the change of keys and values, and width of the MLPs."""
FEWEST_STEPS, MOST_STEPS = 10, 2000
VALIDATION = 16
"""Questions on which training is validated."""
VALIDATIONS = 2
SPARE = 2.0
"""Disk that is needed, as a multiple of the checkpoints' size."""


@dataclass(frozen=True)
class Pace:
    """How fast training is on this machine."""

    batch_size: int
    """Examples at once; halved until they fit into memory."""
    accumulation: int
    """Batches a step, so that a step has as many examples as was wanted."""
    seconds: float
    """Seconds a step."""


def choose_layers(
    decoder: torch.nn.Module, prompts: Sequence[Prompt], count: int, progress: Progress = silent
) -> tuple[int, ...]:
    """Return the layers in which K matters most, in order: those whose loss alone costs most nats.

    Args:
        decoder: Any causal decoder in which tokens meet in attention alone.
        prompts: Examples with knowledge, which report nothing afterwards.
        count: Layers to choose.
        progress: Called as the work goes on.
    """
    depth = len(find_blocks(decoder))  # type: ignore[arg-type]
    if count >= depth:
        return tuple(range(depth))
    without = [tuple(layer for layer in range(depth) if layer != missing) for missing in range(depth)]
    with frozen(decoder):  # type: ignore[arg-type]
        losses = visible_nll(decoder, prompts, without, progress=progress)  # type: ignore[arg-type]
    ranked = sorted(range(depth), key=lambda layer: losses[layer], reverse=True)
    return tuple(sorted(ranked[:count]))


def count_layers(depth: int, layers: int | None, bytes_per_token: int | None, bytes_per_layer: int) -> int:
    """Return how many layers are to read.

    Args:
        depth: The decoder's layers.
        layers: What the user named, if anything.
        bytes_per_token: Most bytes that a token of K may take in prepared knowledge, if named.
        bytes_per_layer: Bytes that it takes in one layer.

    Raises:
        ValueError: Both are named, there are not so many layers, or not one layer fits.
    """
    if layers is not None and bytes_per_token is not None:
        raise ValueError("--layers and --bytes-per-token both say how many layers read; give one of them.")
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
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "memory" not in str(error).lower():
                raise
            if size == 1:
                raise MemoryError("not even one example fits into memory; choose a smaller decoder.") from error
            size //= 2
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
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
    """Return how many steps fit the time, at most so many epochs.

    A validation counts as steps over its questions, and so does the loss that it is compared with.

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
    """Ends training when its time is over, however slow the machine has become since it was timed."""

    def __init__(self, time: float) -> None:
        """End at this time, by ``time.monotonic``."""
        self.time = time

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Stop after a validation and a checkpoint."""
        if time.monotonic() > self.time:
            control.should_training_stop = control.should_evaluate = control.should_save = True


def check_disk(folder: Path, parameters: int) -> None:
    """Check that checkpoints fit on the disk: bank and two moments of AdamW, each in fp32, a few times.

    Raises:
        OSError: They do not.
    """
    folder.mkdir(parents=True, exist_ok=True)
    needed, free = SPARE * 3 * 4 * parameters + 50e6, shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(f"{str(folder)!r} has {free / 1e6:.0f} MB free, and training needs about {needed / 1e6:.0f} MB.")


def bank_config(layers: Sequence[int], chat: bool, template: str) -> DiekaeConfig:
    """Return the bank's configuration."""
    return DiekaeConfig(
        layers=tuple(layers),
        encoder="attention",
        encoder_options={"rank": RANK, "mlp_width": WIDTH},
        site="attention",
        scope="all",
        format="chat" if chat else "qa",
        template=template,
    )
