"""The objective ``difference``: regression of each encoder on what reading K changes (paper, section 3.2).

Shapes: N encoders, B rows, T columns of x, W decoder width.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from diekae.data.batch import Batch, columns_with_knowledge, take_columns
from diekae.encoders import KnowledgeBatch
from diekae.inject.contexts import HookContext
from diekae.inject.hooks import detach_blocks, run
from diekae.model import DiekaeModel
from diekae.training.differences import Differences, collect
from diekae.training.objectives.base import LossSums, Objective, parts_of
from diekae.training.objectives.reading import (
    embedded,
    injection_of,
    make_slots,
    position_ids,
    prepare_batch,
    read_in_run,
)


def difference_objective(model: DiekaeModel) -> DifferenceObjective:
    """Return the objective that suits the model's encoder."""
    return SlotDifferenceObjective(model) if model.attached.by_attention else DifferenceObjective(model)


class DifferenceObjective(Objective):
    """Mean squared error of each encoder on its differences, without a graph through the decoder.

    This class is for encoders that compute the difference themselves (``reader``, ``token``).
    """

    def count(self, batch: dict[str, Tensor]) -> Tensor:
        """Count receiving positions."""
        return batch["receives"].sum()

    def forward(self, counted: Tensor | None = None, **batch: Any) -> LossSums:
        """Regress on the differences, which are collected first unless the batch has them from a cache.

        The batch has the fields of :class:`Batch` or of :class:`Differences`. Errors count at ``counted`` positions,
        bool [B, T]; by default at all that receive.
        """
        cached = "targets" in batch
        differences = Differences(**batch) if cached else self.collect(Batch(**batch))  # type: ignore[typeddict-item]
        counted = differences.receives if counted is None else counted
        prepared = prepare_batch(self.model, vars(differences))
        by_token = self.bank.encoder.reads == "embeddings"
        x = embedded(self.model, differences.input_ids) if by_token else differences.states
        encoded = self.bank.encode(prepared, x, differences.input_mask)
        goal = self.bank.goal(differences.targets)[:, counted]
        errors = (encoded.difference.float()[:, counted] - goal).square().mean(-1).sum(1)
        return LossSums(errors.sum(), counted.sum(), parts_of(errors, goal))

    def keep(self, batch: Batch) -> dict[str, Tensor]:
        """Return the differences; ValueError if they cannot be cached."""
        if self.model.config.rollout == "student":
            raise ValueError("rollout='student' changes with the bank and cannot be cached; leave cache out.")
        return vars(self.collect(batch))

    def collect(self, batch: Batch) -> Differences:
        """Run the decoder on a batch and return the differences."""
        model = self.model
        student = partial(self._injecting, batch) if model.config.rollout == "student" else None
        return collect(model.decoder, model.hookpoints, batch, kind=model.config.difference, student=student)

    def _injecting(self, batch: Batch, knowledge_states: Tensor) -> HookContext:
        """Return a block in which the bank injects what it computes at present."""
        fields: Any = {**batch, "knowledge_states": knowledge_states}
        return injection_of(self.model, batch, prepare_batch(self.model, fields)).active()


class SlotDifferenceObjective(DifferenceObjective):
    """The same for the encoder ``attention``, whose slots the decoder reads as it runs.

    D(K, x) runs, then x with K's slots. The error of a layer is what the stream after its attention still misses of
    that of D(K, x). Under rollout ``teacher`` each layer starts from the stream of D(K, x), else from its own.
    """

    def forward(self, counted: Tensor | None = None, **batch: Any) -> LossSums:
        """Compare the streams of both runs; arguments as for :class:`DifferenceObjective`."""
        model, fields = self.model, Batch(**batch)  # type: ignore[typeddict-item]
        counted = fields["receives"] if counted is None else counted
        expected, prepared = self._run_with_knowledge(fields)
        receives, teacher = fields["receives"][..., None], model.config.rollout == "teacher"
        scales = dict(zip(model.layers, self.bank.scale, strict=True))
        errors: dict[int, Tensor] = {}

        def compare(layer: int, stream: Tensor, _output: Tensor) -> Tensor | None:
            missing = expected[layer] - stream
            errors[layer] = (missing[counted].float() / scales[layer]).square().mean(-1).sum()
            return torch.where(receives, missing.detach(), 0.0) if teacher else None

        with injection_of(model, fields, prepared).active(), detach_blocks(model.decoder):
            run(model.decoder, fields["input_ids"], model.hookpoints, compare, gradients=True)
        loss = torch.stack([errors[layer] for layer in model.layers])
        if torch.is_grad_enabled():  # the shares need one more run, so only validation measures them
            return LossSums(loss.sum(), counted.sum(), self._no_parts())
        targets = collect(model.decoder, model.hookpoints, fields).targets[:, counted].float()
        return LossSums(loss.sum(), counted.sum(), parts_of(loss, targets / self.bank.scale[:, None, None]))

    def _run_with_knowledge(self, batch: Batch) -> tuple[dict[int, Tensor], KnowledgeBatch]:
        """Run D(K, x). Return each layer's stream at x's columns, and K's slots, with gradients to the bank."""
        model, attached = self.model, self.model.attached
        streams: dict[int, Tensor] = {}
        columns = columns_with_knowledge(batch)

        def take(layer: int, stream: Tensor, _output: Tensor) -> None:
            streams[layer] = take_columns(stream, columns)

        with attached.keeping() as kept:
            run(model.decoder, batch["full_ids"], model.hookpoints, take, position_ids=position_ids(attached, batch))
        return streams, make_slots(attached, read_in_run(attached, batch, kept), batch["knowledge_mask"])

    def keep(self, batch: Batch) -> dict[str, Tensor]:  # noqa: ARG002
        """Refuse a cache, by a ValueError."""
        raise ValueError(
            "encoder='attention' is read by the decoder as it runs, so that a cache of differences saves nothing; "
            "leave cache out."
        )
