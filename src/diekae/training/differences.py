"""The differences that encoders are regressed on: two runs of the decoder, without gradients.

``sequential`` differences are what is still missing in the stream after the injections in lower layers. ``independent``
differences compare the outputs of two untouched runs (paper, section 3.2).

Shapes: N encoders, B rows, K knowledge tokens, T columns of the run over x, W decoder width.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from diekae.data.batch import Batch, columns_with_knowledge, knowledge_columns, knowledge_ids, take_columns
from diekae.inject.hookpoints import Hookpoint
from diekae.inject.hooks import apply_hook, run

Student = Callable[[Tensor], AbstractContextManager[object]]
"""Called with what encoders read of K, [N, B, K, W]. Returns a block in which the bank injects into runs over x."""


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
    """Run the decoder with and without knowledge; return ``sequential`` or ``independent`` differences at N hookpoints.

    With a student, the run over x has what the bank injects (rollout ``student``). Otherwise each layer starts from the
    states of the run with knowledge (``teacher``).
    """
    layers = sorted(hookpoints)
    with_knowledge, knowledge_states = _run_with_knowledge(decoder, hookpoints, batch, kind)
    states: dict[int, Tensor] = {}
    targets: dict[int, Tensor] = {}
    receives = batch["receives"][..., None]

    def compare(layer: int, stream: Tensor, output: Tensor) -> Tensor | None:
        stream, output = stream.to(receives.device), output.to(receives.device)  # a decoder may be spread over devices
        states[layer] = stream
        targets[layer] = missing = with_knowledge[layer] - (output if kind == "independent" else stream)
        teacher = kind == "sequential" and student is None
        return torch.where(receives, missing, torch.zeros_like(missing)) if teacher else None

    # The student's block is the inner one, so that each layer is read before anything is injected there.
    with apply_hook(hookpoints, compare), student(knowledge_states) if student else nullcontext():
        run(decoder, batch["input_ids"], hookpoints)
    return Differences(
        knowledge_ids(batch),
        batch["knowledge_mask"],
        knowledge_states,
        batch["input_ids"],
        batch["input_mask"],
        torch.stack([states[layer] for layer in layers]),
        torch.stack([targets[layer] for layer in layers]),
        batch["receives"],
    )


def _run_with_knowledge(
    decoder: PreTrainedModel, hookpoints: Mapping[int, Hookpoint], batch: Batch, kind: str
) -> tuple[dict[int, Tensor], Tensor]:
    """Return by layer what differences are taken from at x's columns, [B, T, W], and K's states [N, B, K, W]."""
    of_x: dict[int, Tensor] = {}
    of_knowledge: dict[int, Tensor] = {}
    x_columns, k_columns = columns_with_knowledge(batch), knowledge_columns(batch, batch["full_ids"].shape[1])

    def read(layer: int, stream: Tensor, output: Tensor) -> None:
        of_x[layer] = take_columns(stream if kind == "sequential" else output, x_columns)
        of_knowledge[layer] = take_columns(stream, k_columns)

    run(decoder, batch["full_ids"], hookpoints, read)
    return of_x, torch.stack([of_knowledge[layer] for layer in sorted(hookpoints)])
