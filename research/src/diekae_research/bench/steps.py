"""Training steps and random training data that the benchmark of training compares."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn import functional as F
from torch.optim import AdamW
from torch.utils.data import DataLoader

from diekae.data.batch import Batch
from diekae.data.prompt import Prompt
from diekae.encoders.bank import Bank
from diekae.inject.hooks import apply_hook
from diekae.model import DiekaeModel
from diekae.run.score import logits_at
from diekae.run.timing import TimedCall
from diekae.training.cache import CachedDataset, collect_to_disk
from diekae.training.dataset import PromptDataset
from diekae.training.objectives import DifferenceObjective, Objective
from diekae_research.bench.setting import Bench
from diekae_research.methods.lora import with_adapters


def random_dataset(bench: Bench, model: DiekaeModel, sizes: Mapping[str, int]) -> PromptDataset:
    """Return random examples, laid out as the model's bank is trained.

    Args:
        bench: Gives anchor, |x| and seed.
        model: The model with the bank.
        sizes: Number of ``rows``, and of tokens of ``knowledge`` and ``target`` in each.
    """
    knowledge, target = sizes["knowledge"], sizes["target"]
    end = knowledge + bench.inputs
    rows = bench.ids(end + target, sizes["rows"]).tolist()
    prompts = [Prompt(bench.anchor, tuple(r[:knowledge]), tuple(r[knowledge:end]), tuple(r[end:])) for r in rows]
    return PromptDataset(prompts, scope=model.config.scope, anchor=model.config.anchor)


def random_batch(bench: Bench, model: DiekaeModel, sizes: Mapping[str, int]) -> Batch:
    """Return the examples of :func:`random_dataset` as one batch."""
    dataset = random_dataset(bench, model, sizes)
    return dataset.collate(dataset.prompts)


def bank_step(objective: Objective, batch: Mapping[str, Any]) -> TimedCall:
    """Return a call that makes one step of a bank, as the trainer makes it."""
    return partial(_trainer_step(objective), batch)


def cached_epochs(bench: Bench, model: DiekaeModel, sizes: Mapping[str, int], folder: Path) -> dict[str, TimedCall]:
    """Return the ``first`` epoch, which collects differences into a new folder, and a ``later`` one that reads them."""
    dataset, objective = random_dataset(bench, model, sizes), DifferenceObjective(model)
    numbers = itertools.count()

    def collect(name: str) -> CachedDataset:
        return collect_to_disk(folder / name, dataset, objective.keep, key={}, limit_gb=16)

    def train(data: CachedDataset) -> None:
        step = _trainer_step(objective)
        for batch in DataLoader(data, 8, collate_fn=data.collate):
            step(batch)

    collected = collect("collected")
    return {"first": lambda: train(collect(str(next(numbers)))), "later": lambda: train(collected)}


def plain_step(model: DiekaeModel, batch: Batch) -> TimedCall:
    """Return a step as the published code makes it: two passes of the whole decoder, and a loop over encoders."""
    options = (model.config.encoder, model.config.encoder_options)
    widths = model.bank.encoder.embedding_width, model.bank.encoder.width
    banks = [Bank(*options, [layer], *widths) for layer in model.layers]
    update = _optimizer(parameter for bank in banks for parameter in bank.parameters())
    length = batch["knowledge_mask"].shape[1]

    def states(ids: Tensor) -> list[Tensor]:
        streams: list[Tensor] = []
        with apply_hook(model.hookpoints, lambda _layer, stream, _output: streams.append(stream)):
            model.decoder(input_ids=ids, use_cache=False)
        return streams

    def run() -> None:
        with torch.no_grad():
            whole, short = states(batch["full_ids"]), states(batch["input_ids"])
            embed = model.decoder.get_input_embeddings()
        for bank, full, bare in zip(banks, whole, short, strict=True):
            reads_states = bank.encoder.reads != "embeddings"
            knowledge = full[:, 1 : 1 + length] if reads_states else embed(batch["full_ids"][:, 1 : 1 + length])
            inputs = bare if reads_states else embed(batch["input_ids"])
            prepared = bank.prepare(knowledge[None], batch["knowledge_mask"])
            output = bank(prepared, inputs[None], batch["input_mask"]).difference[0]
            F.mse_loss(output[:, 1:], full[:, 1 + length :] - bare[:, 1:]).backward()
        update()

    return run


def lora_step(bench: Bench, batch: Batch) -> TimedCall:
    """Return one step of LoRA (rank 24, as the paper's) with K in the prompt."""
    decoder = with_adapters(bench.decoder)
    update = _optimizer(parameter for parameter in decoder.parameters() if parameter.requires_grad)
    labels = batch["labels"][batch["labels"] != -100]

    def run() -> None:
        F.cross_entropy(logits_at(decoder, batch["full_ids"], batch["labels"], batch["offset"]), labels).backward()
        update()

    return run


def _trainer_step(objective: Objective) -> Callable[[Mapping[str, Any]], None]:
    update = _optimizer(objective.bank.parameters())

    def step(batch: Mapping[str, Any]) -> None:
        sums = objective(**batch)
        (sums.loss / sums.positions).backward()
        update()

    return step


def _optimizer(parameters: Iterable[Parameter]) -> Callable[[], None]:
    """Return a function that applies the gradients and clears them."""
    optimizer = AdamW(list(parameters), 1e-5)

    def update() -> None:
        optimizer.step()
        optimizer.zero_grad()

    return update
