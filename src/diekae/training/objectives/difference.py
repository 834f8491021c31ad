"""The objective ``difference``: regression of each encoder on what reading K changes (paper, section 3.2).

Shapes: N encoders, B rows, T columns of x, W decoder width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diekae.data.batch import Batch
from diekae.differences import Differences, Student, collect
from diekae.encoders import KnowledgeBatch
from diekae.inject.batch_columns import run_columns, take_columns
from diekae.inject.batch_slots import make_slots, read_in_run, run_places
from diekae.inject.hooks import detach_blocks, run
from diekae.training.objectives.base import LossSums, Objective, parts_of
from diekae.training.objectives.injected import embedded, injection_of, prepare_batch


class DifferenceObjective(Objective):
    """Mean squared error of each encoder on its differences, without a graph through the decoder."""

    def count(self, batch: dict[str, Tensor]) -> Tensor:
        """Count receiving positions."""
        return batch["receives"].sum()

    def forward(self, **batch: Any) -> LossSums:
        """Collect the differences, or take them from a cached batch, and regress on them."""
        if self.model.attached.by_attention:
            return self._by_attention(Batch(**batch))  # type: ignore[typeddict-item]
        cached = "targets" in batch
        differences = Differences(**batch) if cached else self.collect(Batch(**batch))  # type: ignore[typeddict-item]
        bank, receives = self.bank, differences.receives
        prepared = prepare_batch(self.model, vars(differences))
        by_token = bank.encoder.reads == "embeddings"
        x = embedded(self.model, differences.input_ids) if by_token else differences.states
        encoded = bank.encode(prepared, x, differences.input_mask)
        goal = bank.goal(differences.targets)[:, receives]
        errors = (encoded.difference.float()[:, receives] - goal).square().mean(-1).sum(1)
        return LossSums(errors.sum(), receives.sum(), parts_of(errors, goal))

    def _by_attention(self, batch: Batch) -> LossSums:
        """Run D(K, x), then x with K's slots, and compare the streams after the attention of each layer.

        Under rollout ``teacher`` each layer starts from the stream of D(K, x), else from its own.
        """
        model = self.model
        expected, prepared = self._read(batch)
        receives, numbers = batch["receives"], {layer: number for number, layer in enumerate(model.layers)}
        fields: Any = batch
        counted: Tensor = fields.get("counted", receives)  # fewer where some positions are reported separately
        receiving, teacher = receives[..., None], model.config.rollout == "teacher"
        errors = [torch.empty(0)] * len(numbers)

        def compare(layer: int, stream: Tensor, _output: Tensor) -> Tensor | None:
            missing = expected[layer] - stream
            scaled = missing[counted].float() / self.bank.scale[numbers[layer]]
            errors[numbers[layer]] = scaled.square().mean(-1).sum()
            return torch.where(receiving, missing.detach(), 0.0) if teacher else None

        with injection_of(model, batch, prepared).active(), detach_blocks(model.decoder):
            run(model.decoder, batch["input_ids"], model.hookpoints, compare, gradients=True)
        loss = torch.stack(errors)
        if torch.is_grad_enabled():  # the shares need one more run, so only validation measures them
            return LossSums(loss.sum(), counted.sum(), self._no_parts())
        targets = collect(model.decoder, model.hookpoints, batch).targets[:, counted].float()
        return LossSums(loss.sum(), counted.sum(), parts_of(loss, targets / self.bank.scale[:, None, None]))

    def _read(self, batch: Batch) -> tuple[dict[int, Tensor], KnowledgeBatch]:
        """Run D(K, x). Return each layer's stream at x's columns, and K's slots, with gradients to the bank."""
        model, attached = self.model, self.model.attached
        streams: dict[int, Tensor] = {}
        columns = run_columns(batch)

        def take(layer: int, stream: Tensor, _output: Tensor) -> None:
            streams[layer] = take_columns(stream, columns)

        with attached.keeping() as kept:
            run(model.decoder, batch["full_ids"], model.hookpoints, take, position_ids=run_places(attached, batch))
        read = read_in_run(attached, batch, kept)
        return streams, make_slots(attached, read, batch["knowledge_mask"], model.config.anchor == "own")

    def keep(self, batch: Batch) -> dict[str, Tensor]:
        """Return the differences.

        Raises:
            ValueError: They cannot be cached.
        """
        if self.model.attached.by_attention:
            raise ValueError(
                "encoder='attention' is read by the decoder as it runs, so that a cache of differences saves nothing; "
                "leave cache out."
            )
        if self.model.config.rollout == "student":
            raise ValueError("rollout='student' changes with the bank and cannot be cached; leave cache out.")
        return vars(self.collect(batch))

    def collect(self, batch: Batch) -> Differences:
        """Run the decoder on a batch and return the differences."""
        model = self.model
        student = self._student(batch) if model.config.rollout == "student" else None
        return collect(model.decoder, model.hookpoints, batch, kind=model.config.difference, student=student)

    def _student(self, batch: Batch) -> Student:
        """Return a function of what the encoders inject at present."""
        bank, mask = self.bank, batch["knowledge_mask"]

        def student(states: Tensor) -> Callable[[int, Tensor], Tensor]:
            if bank.encoder.reads != "embeddings":
                prepared = bank.prepare(states, mask)
                every_column = batch["input_mask"]
                return lambda n, read: bank(prepared, read[None], every_column, slice(n, n + 1)).difference[0]
            x = embedded(self.model, batch["input_ids"])
            differences = bank(prepare_batch(self.model, batch), x, batch["input_mask"]).difference
            return lambda n, _stream: differences[n]

        return student
