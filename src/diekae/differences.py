"""What the encoders are regressed on: two runs of the decoder, without gradients (design: sequential and independent).

Shapes: N encoders, B rows, K knowledge tokens, T columns of the run over x, W decoder width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from diekae.data.prompt import Batch
from diekae.inject.hookpoints import Hookpoint
from diekae.inject.hooks import run

Read = Callable[[Tensor, Tensor], Tensor]
"""Given the stream at a hookpoint and the hooked output, both [B, T, W], returns what an encoder reads of them."""
Student = Callable[[Tensor], Callable[[int, Tensor], Tensor]]
"""Given what is read at K [N, B, K, W], returns ``guess(index, read)``, what an encoder injects at x [B, T, W]."""


@dataclass(frozen=True)
class Differences:
    """One batch of the regression: what each encoder may read, and what it should have said."""

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


def _stream(stream: Tensor, _output: Tensor) -> Tensor:
    return stream


@torch.no_grad()
def collect(
    decoder: PreTrainedModel,
    points: Mapping[int, Hookpoint],
    batch: Batch,
    *,
    kind: str = "sequential",
    student: Student | None = None,
    read: Read = _stream,
) -> Differences:
    """Run the decoder with and without knowledge and take the differences at every hookpoint.

    Args:
        decoder: The frozen decoder.
        points: Hookpoints by layer, N of them.
        batch: From :func:`diekae.data.prompt.collate`.
        kind: ``sequential``: what is still missing in the stream after the injections below. ``independent``: the
            difference of the hooked outputs of two untouched runs (paper, section 3.2).
        student: With it the run over x carries what the encoders inject (rollout ``student``), otherwise the states
            of the run with knowledge (``teacher``).
        read: What encoders read; the stream if not told.
    """
    index = {layer: number for number, layer in enumerate(sorted(points))}
    with_knowledge = [torch.empty(0)] * len(index)
    knowledge_states = [torch.empty(0)] * len(index)
    columns = _columns(batch)
    slots = knowledge_columns(batch, batch["full_ids"].shape[1])

    def keep(layer: int, stream: Tensor, output: Tensor) -> None:
        value = stream if kind == "sequential" else output
        with_knowledge[index[layer]] = take_columns(value, columns)
        knowledge_states[index[layer]] = take_columns(read(stream, output), slots)

    run(decoder, batch["full_ids"], points, keep)
    known = torch.stack(knowledge_states)
    guess = None if student is None else student(known)
    states = [torch.empty(0)] * len(index)
    targets = [torch.empty(0)] * len(index)
    receives = batch["receives"][..., None]

    def compare(layer: int, stream: Tensor, output: Tensor) -> Tensor | None:
        number = index[layer]
        states[number] = read(stream, output)
        if kind == "independent":
            targets[number] = with_knowledge[number] - output
            return None
        missing = with_knowledge[number] - stream
        targets[number] = missing
        difference = missing if guess is None else guess(number, states[number]).to(missing.dtype)
        return torch.where(receives, difference, torch.zeros_like(missing))

    run(decoder, batch["input_ids"], points, compare)
    ids = torch.gather(batch["full_ids"], 1, slots)
    return Differences(
        ids,
        batch["knowledge_mask"],
        known,
        batch["input_ids"],
        batch["input_mask"],
        torch.stack(states),
        torch.stack(targets),
        batch["receives"],
    )


@torch.no_grad()
def knowledge_states(
    decoder: PreTrainedModel, points: Mapping[int, Hookpoint], batch: Batch, read: Read = _stream
) -> Tensor:
    """Return what encoders read of K alone, [N, B, K, W]: one run over anchor and K."""
    length = int((batch["knowledge_start"] + batch["knowledge_mask"].sum(1)).max())
    slots = knowledge_columns(batch, length)
    states: list[Tensor] = []
    run(
        decoder,
        batch["full_ids"][:, :length],
        points,
        lambda _layer, stream, output: states.append(take_columns(read(stream, output), slots)),
    )
    return torch.stack(states)


def knowledge_columns(batch: Batch, length: int) -> Tensor:
    """Return where K's tokens stand in a run of ``length`` columns, int64 [B, K]; padding points inside it."""
    count = torch.arange(batch["knowledge_mask"].shape[1], device=batch["full_ids"].device)
    return (batch["knowledge_start"][:, None] + count).clamp(max=length - 1)


def _columns(batch: Batch) -> Tensor:
    """Return, for each column of the run over x, its column in the run with knowledge; int64 [B, T]."""
    places = torch.arange(batch["input_ids"].shape[1], device=batch["input_ids"].device)[None]
    inside = places >= batch["knowledge_start"][:, None]
    shifted = places + torch.where(inside | batch["receives"], batch["offset"][:, None], 0)
    return shifted.clamp(max=batch["full_ids"].shape[1] - 1)


def take_columns(states: Tensor, columns: Tensor) -> Tensor:
    """Take columns [B, C] of states [B, T, W]; returns [B, C, W]."""
    return torch.gather(states, 1, columns[..., None].expand(-1, -1, states.shape[-1]))
