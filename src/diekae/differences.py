"""The differences that encoders are regressed on: two runs of the decoder, without gradients.

``sequential`` differences are what is still missing in the stream after the injections in lower layers. ``independent``
differences compare the outputs of two untouched runs (paper, section 3.2).

Shapes: N encoders, B rows, K knowledge tokens, T columns of the run over x, W decoder width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from diekae.data.batch import Batch
from diekae.inject.batch_columns import knowledge_columns, run_columns, take_columns
from diekae.inject.hookpoints import Hookpoint
from diekae.inject.hooks import run

Student = Callable[[Tensor], Callable[[int, Tensor], Tensor]]
"""Called with the states of K [N, B, K, W]. Returns ``predict(number, states)``, the difference [B, T, W] that encoder
``number`` computes for the states of x [B, T, W]."""


@dataclass(frozen=True)
class Differences:
    """One batch of the regression: what each encoder reads, and what it should return."""

    knowledge_ids: Tensor
    """Tokens of K, int64 [B, K]."""
    knowledge_mask: Tensor
    """Real tokens of K, bool [B, K]."""
    knowledge_states: Tensor
    """What encoders read of K, [N, B, K, W]."""
    input_ids: Tensor
    """Tokens of the run over x, anchor included; int64 [B, T]."""
    input_mask: Tensor
    """Real columns, bool [B, T]."""
    states: Tensor
    """What encoders read of x just before the difference is added, [N, B, T, W]."""
    targets: Tensor
    """The difference that reading K makes, [N, B, T, W]; meaningful where ``receives``."""
    receives: Tensor
    """Columns that receive a difference, bool [B, T]."""


@torch.no_grad()
def collect(
    decoder: PreTrainedModel,
    hookpoints: Mapping[int, Hookpoint],
    batch: Batch,
    *,
    kind: str = "sequential",
    student: Student | None = None,
) -> Differences:
    """Run the decoder with and without knowledge and return the differences at every hookpoint.

    Args:
        decoder: The frozen decoder.
        hookpoints: Hookpoints by layer, N of them.
        batch: From :func:`diekae.data.prompt.collate`.
        kind: ``sequential`` or ``independent``.
        student: If given, the run over x carries the differences that the encoders predict (rollout ``student``).
            Otherwise it carries the states of the run with knowledge (``teacher``).
    """
    numbers = {layer: number for number, layer in enumerate(sorted(hookpoints))}
    with_knowledge, knowledge_states = _run_with_knowledge(decoder, hookpoints, batch, kind)
    predict = None if student is None else student(knowledge_states)
    states = [torch.empty(0)] * len(numbers)
    targets = [torch.empty(0)] * len(numbers)
    receives = batch["receives"][..., None]

    def compare(layer: int, stream: Tensor, output: Tensor) -> Tensor | None:
        number = numbers[layer]
        states[number] = stream
        if kind == "independent":
            targets[number] = with_knowledge[number] - output
            return None
        targets[number] = missing = with_knowledge[number] - stream
        difference = missing if predict is None else predict(number, stream).to(missing.dtype)
        return torch.where(receives, difference, torch.zeros_like(missing))

    run(decoder, batch["input_ids"], hookpoints, compare)
    return Differences(
        torch.gather(batch["full_ids"], 1, knowledge_columns(batch, batch["full_ids"].shape[1])),
        batch["knowledge_mask"],
        knowledge_states,
        batch["input_ids"],
        batch["input_mask"],
        torch.stack(states),
        torch.stack(targets),
        batch["receives"],
    )


def _run_with_knowledge(
    decoder: PreTrainedModel, hookpoints: Mapping[int, Hookpoint], batch: Batch, kind: str
) -> tuple[list[Tensor], Tensor]:
    """Return what differences are taken from at x's columns, N times [B, T, W], and K's states [N, B, K, W]."""
    of_x: dict[int, Tensor] = {}
    of_knowledge: dict[int, Tensor] = {}
    input_columns, k_columns = run_columns(batch), knowledge_columns(batch, batch["full_ids"].shape[1])

    def read(layer: int, stream: Tensor, output: Tensor) -> None:
        of_x[layer] = take_columns(stream if kind == "sequential" else output, input_columns)
        of_knowledge[layer] = take_columns(stream, k_columns)

    run(decoder, batch["full_ids"], hookpoints, read)
    layers = sorted(hookpoints)
    return [of_x[layer] for layer in layers], torch.stack([of_knowledge[layer] for layer in layers])
