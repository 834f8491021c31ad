"""The three objectives, each a module that holds the bank alone and returns sums, so that any split of a batch adds up.

Shapes: N encoders, B rows, K knowledge tokens, T columns of x, W decoder width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diekae.config import DiekaeConfig
from diekae.data.prompt import IGNORED, Batch, run_of
from diekae.differences import (
    Differences,
    Student,
    collect,
    join_documents,
    knowledge_columns,
    make_slots,
    read_apart,
    read_in_run,
    read_knowledge,
    run_columns,
    run_places,
    take_columns,
)
from diekae.encoders import KnowledgeBatch
from diekae.inject.hooks import apart, run
from diekae.inject.injection import Injection
from diekae.model import DiekaeModel
from diekae.run.score import logits_at


class Sums(NamedTuple):
    """What a batch contributes; divide by ``positions`` only after adding up batches and processes."""

    loss: Tensor
    """Sum of the loss over counted positions; the graph hangs here."""
    positions: Tensor
    """Counted positions."""
    parts: Tensor
    """For the unexplained share of each layer, see :func:`unexplained`: [N, 2 + W]; zeros under other objectives."""


def parts_of(errors: Tensor, goal: Tensor) -> Tensor:
    """Return what a batch contributes to the unexplained share.

    Args:
        errors: Squared errors of each layer, mean over dimensions, summed over positions, [N].
        goal: Targets, [N, positions, W].
    """
    wide = goal.double()
    squares, sums = wide.square().mean(-1).sum(1), wide.sum(1) / wide.shape[-1] ** 0.5
    return torch.cat([errors.double()[:, None], squares[:, None], sums], dim=1).detach()


def unexplained(parts: Tensor, positions: float) -> Tensor | None:
    """Return the share of the targets' variance that is left over in each layer, [N].

    The variance is about the mean of the targets themselves, whatever centre the bank adds. None where there is none:
    no target, or one alone.

    Args:
        parts: Summed over batches and processes, [N, 2 + W].
        positions: Counted positions.
    """
    if not parts.numel() or positions < 2 or not bool(parts[:, 1].any()):
        return None
    spread = parts[:, 1] - parts[:, 2:].square().sum(1) / positions
    return parts[:, 0] / spread.clamp(min=1e-12)


class Objective(nn.Module):
    """A bank in training: ``forward(batch)`` is what the trainer wraps and distributes."""

    def __init__(self, model: DiekaeModel) -> None:
        """Hold the bank as this module's only parameters."""
        super().__init__()
        self.bank = model.bank
        self._outside = {"model": model}

    @property
    def model(self) -> DiekaeModel:
        """Return the model, which is not part of this module's state."""
        return self._outside["model"]

    @property
    def layers(self) -> tuple[int, ...]:
        """Return the decoder layers whose encoders are reported apart."""
        return self.bank.layers

    def count(self, batch: dict[str, Tensor]) -> Tensor:
        """Return how many positions of a batch count."""
        raise NotImplementedError

    def keep(self, batch: Batch) -> dict[str, Tensor]:
        """Return what the frozen decoder makes of a batch, padded as it is; ``forward`` takes it in the batch's place.

        Named as in :class:`Differences` and :class:`Batch`; and ``teacher``, logits of D(K, x) [labels, vocabulary].
        """
        raise NotImplementedError

    def _nothing(self) -> Tensor:
        count, width = self.bank.bias.shape
        return torch.zeros(count, 2 + width, dtype=torch.float64, device=self.bank.bias.device)


class DifferenceObjective(Objective):
    """Mean squared error of each encoder on its differences; no graph through the decoder (paper, section 3.2)."""

    def count(self, batch: dict[str, Tensor]) -> Tensor:
        """Count receiving positions."""
        return batch["receives"].sum()

    def forward(self, **batch: Any) -> Sums:
        """Take the differences, from the batch itself where they were cached, and regress on them."""
        if self.model.attached.by_attention:
            return self._by_attention(Batch(**batch))  # type: ignore[typeddict-item]
        found = Differences(**batch) if "targets" in batch else self.collect(Batch(**batch))  # type: ignore[typeddict-item]
        bank = self.bank
        if bank.encoder.reads == "embeddings":
            embed = self.model.decoder.get_input_embeddings()
            with torch.no_grad():
                known, seen = (embed(ids)[None].to(bank.dtype) for ids in (found.knowledge_ids, found.input_ids))
        else:
            known, seen = found.knowledge_states, found.states
        prepared = bank.prepare(known, found.knowledge_mask)
        encoded = bank.encode(prepared, seen, found.input_mask)
        goal = bank.goal(found.targets)[:, found.receives]
        errors = (encoded.difference.float()[:, found.receives] - goal).square().mean(-1).sum(1)
        return Sums(errors.sum(), found.receives.sum(), parts_of(errors, goal))

    def _by_attention(self, batch: Batch) -> Sums:
        """Run x with K's slots, each layer on the states of D(K, x), and compare the streams behind its attention."""
        model, attached = self.model, self.model.attached
        receives, numbers = batch["receives"], {layer: n for n, layer in enumerate(model.layers)}
        given: Any = batch
        counted: Tensor = given.get("counted", receives)  # fewer where some places are reported apart
        wanted: dict[int, Tensor] = {}
        columns, shown = run_columns(batch), receives[..., None]
        teacher, errors = model.config.rollout == "teacher", [torch.empty(0)] * len(numbers)

        def keep(layer: int, stream: Tensor, _output: Tensor) -> None:
            wanted[layer] = take_columns(stream, columns)

        with attached.keeping() as kept:
            run(model.decoder, batch["full_ids"], model.points, keep, position_ids=run_places(attached, batch))
        prepared = make_slots(
            attached, read_in_run(attached, batch, kept), batch["knowledge_mask"], model.config.anchor == "own"
        )

        def compare(layer: int, stream: Tensor, _output: Tensor) -> Tensor | None:
            missing = wanted[layer] - stream
            scaled = missing[counted].float() / self.bank.scale[numbers[layer]]
            errors[numbers[layer]] = scaled.square().mean(-1).sum()
            # What goes on to the next layer is the stream of D(K, x), or the own one.
            return torch.where(shown, missing.detach(), 0.0) if teacher else None

        with injection_of(model, batch, prepared).active(), apart(model.decoder):
            run(model.decoder, batch["input_ids"], model.points, compare, gradients=True)
        loss = torch.stack(errors)
        if torch.is_grad_enabled():  # a run more, which validation alone makes
            return Sums(loss.sum(), counted.sum(), self._nothing())
        targets = collect(model.decoder, model.points, batch).targets[:, counted].float()
        return Sums(loss.sum(), counted.sum(), parts_of(loss, targets / self.bank.scale[:, None, None]))

    def keep(self, batch: Batch) -> dict[str, Tensor]:
        """Return the differences.

        Raises:
            ValueError: They change with the bank.
        """
        if self.model.attached.by_attention:
            raise ValueError(
                "encoder='attention' is read by the decoder as it runs, so that a cache of differences saves nothing; "
                "leave cache out."
            )
        if self.model.config.rollout == "student":
            raise ValueError("rollout='student' changes with the bank and cannot be cached; leave cache out.")
        return vars(self.collect(batch))

    def collect(self, batch: Batch, config: DiekaeConfig | None = None) -> Differences:
        """Run the decoder on a batch as the configuration, the model's own if None, says."""
        model, config = self.model, config or self.model.config
        student = self._student(batch) if config.rollout == "student" else None
        return collect(model.decoder, model.points, batch, kind=config.difference, student=student)

    def _student(self, batch: Batch) -> Student:
        """Return what the encoders would inject now."""
        bank, mask = self.bank, batch["knowledge_mask"]

        def student(states: Tensor) -> Callable[[int, Tensor], Tensor]:
            if bank.encoder.reads != "embeddings":
                prepared = bank.prepare(states, mask)
                everything = batch["input_mask"]
                return lambda n, read: bank(prepared, read[None], everything, slice(n, n + 1)).difference[0]
            embed = self.model.decoder.get_input_embeddings()
            inputs = embed(batch["input_ids"])[None].to(bank.dtype)
            ready = bank(prepare_batch(self.model, batch), inputs, batch["input_mask"]).difference
            return lambda n, _stream: ready[n]

        return student


class CrossEntropyObjective(Objective):
    """Cross-entropy of the target through the decoder; gradients reach down to the lowest injection (paper, 3.3)."""

    def count(self, batch: dict[str, Tensor]) -> Tensor:
        """Count target tokens."""
        return (batch["labels"] != IGNORED).sum()

    def keep(self, batch: Batch) -> dict[str, Tensor]:
        """Return what encoders read of K.

        Raises:
            ValueError: They read embeddings alone, so that nothing is saved.
        """
        if self.model.bank.encoder.reads == "embeddings":
            raise ValueError(
                f"encoder={self.model.config.encoder!r} reads embeddings alone, so that the decoder does not run over "
                "K in training by cross-entropy and a cache saves nothing; leave cache out."
            )
        return {**_without_full(batch), **read_knowledge(self.model.attached, batch)}

    def forward(self, **batch: Any) -> Sums:
        """Inject, and score the target."""
        logits, labels = injected_logits(self.model, Batch(**batch))  # type: ignore[typeddict-item]
        loss = F.cross_entropy(logits.float(), labels, reduction="sum")
        return Sums(loss, torch.tensor(len(labels), device=loss.device), self._nothing())


class DistillObjective(CrossEntropyObjective):
    """Kullback–Leibler divergence from the injected run to D(K, x), over the target's positions or over x's too."""

    def __init__(self, model: DiekaeModel, whole_input: bool = False) -> None:
        """Hold the bank; ``whole_input`` as in :class:`TrainingConfig`."""
        super().__init__(model)
        self.whole_input = whole_input

    def count(self, batch: dict[str, Tensor]) -> Tensor:
        """Count the tokens whose distributions are compared."""
        return super().count(self._compared(batch))

    def _compared(self, batch: Any) -> Any:
        """Label x's tokens too, where they are predicted from a column that receives, if they are to be compared."""
        if not self.whole_input or "teacher" in batch:
            return batch
        behind = torch.zeros_like(batch["receives"])
        behind[:, 1:] = batch["receives"][:, :-1]
        return {**batch, "labels": torch.where(behind & batch["input_mask"], batch["input_ids"], batch["labels"])}

    @torch.no_grad()
    def keep(self, batch: Batch) -> dict[str, Tensor]:
        """Run D(K, x), and take from the same run what encoders read of K."""
        batch = self._compared(batch)
        model, attached = self.model, self.model.attached
        ids, offset = run_of(batch, knowledge=True)
        places = run_places(attached, batch)
        if model.bank.encoder.reads == "embeddings":
            return {**_without_full(batch), "teacher": logits_at(model.decoder, ids, batch["labels"], offset)}
        options: dict[str, Any] = {} if places is None else {"position_ids": places}
        with attached.keeping() as kept:
            teacher = logits_at(model.decoder, ids, batch["labels"], offset, **options)
        return {**_without_full(batch), **read_in_run(attached, batch, kept), "teacher": teacher}

    def forward(self, **batch: Any) -> Sums:
        """Inject, and compare with the run that has K in its prompt."""
        found: Any = batch if "teacher" in batch else self.keep(Batch(**batch))  # type: ignore[typeddict-item]
        logits, labels = injected_logits(self.model, found)
        divergence = F.kl_div(
            logits.float().log_softmax(-1), found["teacher"].float().log_softmax(-1), log_target=True, reduction="sum"
        )
        return Sums(divergence, torch.tensor(len(labels), device=divergence.device), self._nothing())


def _without_full(batch: Batch) -> dict[str, Tensor]:
    """Return what the run over x needs of a batch, and K's tokens."""
    names = ["knowledge_mask", "input_ids", "input_mask", "receives", "labels"]
    names += [name for name in batch if name.startswith("document_")]
    return {**{name: batch[name] for name in names}, "knowledge_ids": _knowledge_ids(batch)}  # type: ignore[literal-required]


def _knowledge_ids(batch: Batch) -> Tensor:
    return torch.gather(batch["full_ids"], 1, knowledge_columns(batch, batch["full_ids"].shape[1]))


def prepare_batch(model: DiekaeModel, batch: Batch) -> KnowledgeBatch:
    """Prepare the knowledge of a batch, with gradients to the bank and none to the decoder.

    What :meth:`Objective.keep` has found of K already is taken from the batch.
    """
    kept: Any = batch
    if "document_ids" in kept and model.attached.by_attention:
        apart = make_slots(
            model.attached, read_apart(model.attached, kept), kept["document_mask"], model.config.anchor == "own"
        )
        encoder: Any = model.bank.encoder
        return join_documents(apart, kept["document_row"], encoder.sizes.sharpness)
    if model.bank.encoder.reads != "embeddings":
        found = kept if "knowledge_states" in kept else read_knowledge(model.attached, batch)
        if model.attached.by_attention:
            return make_slots(model.attached, found, batch["knowledge_mask"], model.config.anchor == "own")
        return model.bank.prepare(found["knowledge_states"], batch["knowledge_mask"])
    ids = kept.get("knowledge_ids")
    with torch.no_grad():
        embedded = model.decoder.get_input_embeddings()(_knowledge_ids(batch) if ids is None else ids)
    return model.bank.prepare(embedded[None].to(model.bank.dtype), batch["knowledge_mask"])


def injected_logits(model: DiekaeModel, batch: Batch, prepared: KnowledgeBatch | None = None) -> tuple[Tensor, Tensor]:
    """Run the decoder over x with injection, with gradients to what was prepared.

    Returns:
        Logits at the places that predict the target [labels, vocabulary], and the labels [labels].
    """
    with injection_of(model, batch, prepare_batch(model, batch) if prepared is None else prepared).active():
        ids, offset = run_of(batch, knowledge=False)
        logits = logits_at(model.decoder, ids, batch["labels"], offset)
    return logits, batch["labels"][batch["labels"] != IGNORED]


def injection_of(model: DiekaeModel, batch: Batch, prepared: KnowledgeBatch) -> Injection:
    """Return what is injected into the run over x of a laid-out batch, all of whose columns are given."""
    receives, valid = batch["receives"], batch["input_mask"]
    nobody, hidden = receives.new_zeros(len(receives)), torch.zeros_like(receives)
    if prepared.anchor is not None and model.config.anchor == "shared":
        hidden = torch.arange(receives.shape[1], device=receives.device)[None] < prepared.anchor.mask.sum(1)[:, None]
    return Injection(model.attached, prepared, receives, valid, nobody, hidden)


OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "difference": DifferenceObjective,
    "cross_entropy": CrossEntropyObjective,
    "distill": DistillObjective,
}
