"""The three objectives, each a module that holds the bank alone and returns sums, so that any split of a batch adds up.

Shapes: N encoders, B rows, K knowledge tokens, T columns of x, W decoder width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from diekae.config import DiekaeConfig
from diekae.data.prompt import IGNORED, Batch, run_of
from diekae.differences import Differences, Student, collect, knowledge_columns, knowledge_states, take_columns
from diekae.encoders import MemoryBatch
from diekae.inject.hooks import visiting
from diekae.inject.injection import Injection
from diekae.model import DiekaeModel


class Sums(NamedTuple):
    """What a batch contributes; divide by ``positions`` only after adding up batches and processes."""

    loss: Tensor
    """Sum of the loss over counted positions; the graph hangs here."""
    positions: Tensor
    """Counted positions."""
    errors: Tensor
    """Squared errors of each layer, [N], for the unexplained share; zeros under other objectives."""
    spread: Tensor
    """Squared distance of each layer's targets from their centre, [N]."""


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
        return torch.zeros(len(self.bank.layers), device=self.bank.bias.device)


class DifferenceObjective(Objective):
    """Mean squared error of each encoder on its differences; no graph through the decoder (paper, section 3.2)."""

    def count(self, batch: dict[str, Tensor]) -> Tensor:
        """Count receiving positions."""
        return batch["receives"].sum()

    def forward(self, **batch: Any) -> Sums:
        """Take the differences, from the batch itself where they were cached, and regress on them."""
        found = Differences(**batch) if "targets" in batch else self.collect(Batch(**batch))  # type: ignore[typeddict-item]
        bank = self.bank
        if bank.encoder.reads == "embeddings":
            embed = self.model.decoder.get_input_embeddings()
            with torch.no_grad():
                known, seen = (embed(ids)[None].to(bank.dtype) for ids in (found.knowledge_ids, found.input_ids))
        else:
            known, seen = found.knowledge_states, found.states
        memory = bank.prepare(known, found.knowledge_mask)
        encoded = bank.encoder(memory, seen, found.input_mask)
        goal = bank.goal(found.targets)[:, found.receives]
        error = (encoded.difference.float()[:, found.receives] - goal).square().mean(-1).sum(1)
        return Sums(error.sum(), found.receives.sum(), error.detach(), goal.square().mean(-1).sum(1))

    def keep(self, batch: Batch) -> dict[str, Tensor]:
        """Return the differences.

        Raises:
            ValueError: They change with the bank.
        """
        if self.model.config.rollout == "student":
            raise ValueError("rollout='student' changes with the bank and cannot be cached; leave cache out.")
        return vars(self.collect(batch))

    def collect(self, batch: Batch, config: DiekaeConfig | None = None) -> Differences:
        """Run the decoder on a batch as the configuration, the model's own if None, says."""
        model, config = self.model, config or self.model.config
        student = self._student(batch) if config.rollout == "student" else None
        return collect(model.decoder, model.points, batch, kind=config.difference, student=student, read=model.read)

    def _student(self, batch: Batch) -> Student:
        """Return what the encoders would inject now."""
        bank, mask = self.bank, batch["knowledge_mask"]

        def student(states: Tensor) -> Callable[[int, Tensor], Tensor]:
            if bank.encoder.reads != "embeddings":
                memory = bank.prepare(states, mask)
                everything = batch["input_mask"]
                return lambda n, read: bank(memory, read[None], everything, slice(n, n + 1)).difference[0]
            embed = self.model.decoder.get_input_embeddings()
            inputs = embed(batch["input_ids"])[None].to(bank.dtype)
            ready = bank(batch_memory(self.model, batch), inputs, batch["input_mask"]).difference
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
        states = knowledge_states(self.model.decoder, self.model.points, batch, self.model.read)
        return {**_without_full(batch), "knowledge_states": states}

    def forward(self, **batch: Any) -> Sums:
        """Inject, and score the target."""
        logits, labels = injected_logits(self.model, Batch(**batch))  # type: ignore[typeddict-item]
        loss = F.cross_entropy(logits.float(), labels, reduction="sum")
        return Sums(loss, torch.tensor(len(labels), device=loss.device), self._nothing(), self._nothing())


class DistillObjective(CrossEntropyObjective):
    """Kullback–Leibler divergence from the injected run to D(K, x), over the target's positions."""

    @torch.no_grad()
    def keep(self, batch: Batch) -> dict[str, Tensor]:
        """Run D(K, x), and take from the same run what encoders read of K."""
        model = self.model
        ids, offset = run_of(batch, knowledge=True)
        slots = knowledge_columns(batch, ids.shape[1])
        states: list[Tensor] = []

        def see(_layer: int, stream: Tensor, output: Tensor) -> None:
            states.append(take_columns(model.read(stream, output), slots))

        reads = model.bank.encoder.reads != "embeddings"
        with visiting(model.points if reads else {}, see):
            teacher = score_logits(model, ids, batch["labels"], offset)
        known = {"knowledge_states": torch.stack(states)} if reads else {}
        return {**_without_full(batch), **known, "teacher": teacher}

    def forward(self, **batch: Any) -> Sums:
        """Inject, and compare with the run that has K in its prompt."""
        found: Any = batch if "teacher" in batch else self.keep(Batch(**batch))  # type: ignore[typeddict-item]
        logits, labels = injected_logits(self.model, found)
        divergence = F.kl_div(
            logits.float().log_softmax(-1), found["teacher"].float().log_softmax(-1), log_target=True, reduction="sum"
        )
        return Sums(divergence, torch.tensor(len(labels), device=divergence.device), self._nothing(), self._nothing())


def _without_full(batch: Batch) -> dict[str, Tensor]:
    """Return what the run over x needs of a batch, and K's tokens."""
    names = ("knowledge_mask", "input_ids", "input_mask", "receives", "labels")
    return {**{name: batch[name] for name in names}, "knowledge_ids": _knowledge_ids(batch)}  # type: ignore[literal-required]


def _knowledge_ids(batch: Batch) -> Tensor:
    return torch.gather(batch["full_ids"], 1, knowledge_columns(batch, batch["full_ids"].shape[1]))


def batch_memory(model: DiekaeModel, batch: Batch) -> MemoryBatch:
    """Prepare the knowledge of a batch, with gradients to the bank and none to the decoder.

    What :meth:`Objective.keep` has found of K already is taken from the batch.
    """
    kept: Any = batch
    if model.bank.encoder.reads != "embeddings":
        states = kept.get("knowledge_states")
        known = knowledge_states(model.decoder, model.points, batch, model.read) if states is None else states
    else:
        ids = kept.get("knowledge_ids")
        with torch.no_grad():
            embedded = model.decoder.get_input_embeddings()(_knowledge_ids(batch) if ids is None else ids)
        known = embedded[None].to(model.bank.dtype)
    return model.bank.prepare(known, batch["knowledge_mask"])


def injected_logits(model: DiekaeModel, batch: Batch, memory: MemoryBatch | None = None) -> tuple[Tensor, Tensor]:
    """Run the decoder over x with injection.

    Returns:
        Logits at the places that predict the target [labels, vocabulary], and the labels [labels].
    """
    with batch_injection(model, batch, memory).active():
        ids, offset = run_of(batch, knowledge=False)
        logits = score_logits(model, ids, batch["labels"], offset)
    return logits, batch["labels"][batch["labels"] != IGNORED]


def batch_injection(model: DiekaeModel, batch: Batch, memory: MemoryBatch | None = None) -> Injection:
    """Return what is injected into the run over x of a laid-out batch."""
    memory = batch_memory(model, batch) if memory is None else memory
    nobody = torch.zeros(len(batch["input_ids"]), dtype=torch.bool, device=batch["input_ids"].device)
    return Injection(model.bank, model.decoder, model.points, memory, batch["receives"], batch["input_mask"], nobody)


def score_logits(model: DiekaeModel, ids: Tensor, labels: Tensor, offset: Tensor) -> Tensor:
    """Return the logits that predict the labels; see :func:`logits_at`."""
    return logits_at(model.decoder, ids, labels, offset)


def logits_at(decoder: PreTrainedModel, ids: Tensor, labels: Tensor, offset: Tensor, **options: Any) -> Tensor:
    """Return the logits that predict the labels [B, T], which stand ``offset`` [B] columns further right in ids.

    The head runs only at columns that some row needs.

    Args:
        decoder: Any causal decoder.
        ids: Tokens, [B, columns].
        labels: Target tokens at their columns, elsewhere -100; [B, T].
        offset: Columns between a label and its token in ids, [B].
        **options: For the decoder; without them it keeps no cache.

    Returns:
        [labels, vocabulary], row by row.
    """
    rows, columns = (labels != IGNORED).nonzero(as_tuple=True)
    places = columns + offset[rows] - 1
    needed, inverse = places.unique(return_inverse=True)
    logits: Tensor = decoder(input_ids=ids, logits_to_keep=needed, **{"use_cache": False, **options}).logits
    if logits.shape[1] != len(needed):  # an architecture whose head does not take columns
        return logits[rows, places]
    return logits[rows, inverse]


OBJECTIVES: dict[str, type[Objective]] = {
    "difference": DifferenceObjective,
    "cross_entropy": CrossEntropyObjective,
    "distill": DistillObjective,
}
