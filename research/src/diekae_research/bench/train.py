"""A training step against the plain one; epochs from cached differences; fine-tuning against LoRA with K in context."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from diekae.data.prompt import Batch, Prompt
from diekae.encoders.bank import Bank
from diekae.inject.attached import Attached
from diekae.inject.hooks import frozen, visiting
from diekae.model import DiekaeModel
from diekae.run.timing import Times, Way, time_in_turn
from diekae.training.dataset import CachedDataset, PromptDataset, collect_to_disk
from diekae.training.objectives import CrossEntropyObjective, DifferenceObjective, Objective
from diekae_research.bench import floor
from diekae_research.bench.setting import Bench, Row, beside_llama2_7b, llama2_7b

STEP = {"rows": 2, "knowledge": 192, "target": 8}
"""Sizes of the batch of a step on differences."""
EPOCH = {"rows": 8, "knowledge": 128, "target": 8}
"""Examples of an epoch."""
FINE = {"rows": 1, "knowledge": 512, "target": 16}
"""Sizes of a batch of fine-tuning."""
FROM_CACHE = ", K's states from the cache"
"""What is added to an encoder's name where what it reads of K was kept, as in every epoch but the first."""
ROUNDS = 3
"""Most times that each is timed: a step takes many seconds on a slow core."""


def measure(bench: Bench) -> dict[str, Any]:
    """Measure the three rows of training."""
    with frozen(bench.decoder):
        parts = [_step(bench), _epoch(bench), _fine(bench)]
    rows = [row for found, _ in parts for row in found]
    seconds = {name: value for _, found in parts for name, value in found.items()}
    return {"rows": [row.to_dict() for row in rows], "seconds": seconds}


def _step(bench: Bench) -> tuple[list[Row], dict[str, Any]]:
    """Compare a step on differences with one that runs the whole decoder twice and its encoders one by one."""
    rows, seconds = [], {}
    for name, aim in (("token", 0.40), ("reader", None)):
        model = bench.model(name)
        batch = random_data(bench, model, STEP).batch()
        ways = {"plain": _plain_step(model, batch), "ours": bank_step(DifferenceObjective(model), batch)}
        counts = {way: _counted(run) for way, run in ways.items()}
        found = _timed(bench, f"step, {name}", ways)
        layers = f"layers {model.layers[0]}–{model.layers[-1]}"
        note = f"{STEP['rows']} examples of |K| {STEP['knowledge']}, |x| {bench.inputs}; {layers}; floor by operations"
        title = f"training step, {name}, against two full forwards and a loop over encoders"
        rows.append(Row(title, aim, found.ratio("ours", "plain"), counts["ours"] / counts["plain"], note=note))
        seconds[f"step_{name}"] = found
    title = "training step, token, against two full forwards and a loop over encoders, LLaMA2-7B's shape"
    least = _least_step(beside_llama2_7b(llama2_7b(), "token"), bench.inputs)
    return [*rows, Row(title, 0.33, None, least, note="by operations; seconds not measured")], seconds


def _epoch(bench: Bench) -> tuple[list[Row], dict[str, Any]]:
    """Compare an epoch that collects differences with one that reads them."""
    rows, seconds = [], {}
    for name in ("token", "reader"):
        model = bench.model(name)
        data = random_data(bench, model, EPOCH)
        with tempfile.TemporaryDirectory() as place:
            found = _timed(bench, f"epoch, {name}", _epochs(data, Path(place)))
        title = f"epoch from cached differences, {name}, against the first"
        note = f"{EPOCH['rows']} examples of |K| {EPOCH['knowledge']}, |x| {bench.inputs}"
        rows.append(Row(title, 0.1, found.ratio("later", "first"), _least_epoch(bench, model.attached), note=note))
        seconds[f"epoch_{name}"] = found
    return rows, seconds


def _epochs(data: RandomData, place: Path) -> dict[str, Way]:
    """Return an epoch that collects into a new folder, and one that reads what was collected."""
    count, kept = itertools.count(), data.collected(place / "kept")

    def first() -> None:
        _train(data.objective, data.collected(place / str(next(count))))

    return {"first": first, "later": lambda: _train(data.objective, kept)}


def _fine(bench: Bench) -> tuple[list[Row], dict[str, Any]]:
    """Compare cross-entropy through the injected decoder with LoRA, K in its context."""
    sizes = {**FINE, "knowledge": min(FINE["knowledge"], bench.room - FINE["target"])}
    ways: dict[str, Way] = {"lora": _lora_step(bench, random_data(bench, bench.model("token"), sizes).batch())}
    for name in ("token", "reader", "attention"):
        model = bench.model(name, scope="all")
        objective = CrossEntropyObjective(model)
        batch = random_data(bench, model, sizes).batch()
        ways[name] = bank_step(objective, batch)
        if name != "token":  # it reads embeddings: there is nothing to keep
            ways[f"{name}{FROM_CACHE}"] = bank_step(objective, objective.keep(batch))
    counts = {way: _counted(run) for way, run in ways.items()}
    found = _timed(bench, "fine-tuning", ways)
    note = f"|K| {sizes['knowledge']}, |x| {bench.inputs}, {sizes['target']} target tokens; floor by operations"
    rows = [
        Row(
            f"tokens a second of cross-entropy, {name}, against LoRA with K in context",
            3.0 if name == "token" or name.endswith(FROM_CACHE) else None,
            found.ratio("lora", name),
            counts["lora"] / counts[name],
            at_least=True,
            note=note,
        )
        for name in ways
        if name != "lora"
    ]
    return rows, {"fine": found}


class RandomData:
    """Random examples for one model."""

    def __init__(self, model: DiekaeModel, prompts: list[Prompt]) -> None:
        """Lay prompts out as the model's bank is trained."""
        self.model, self.prompts = model, prompts
        config = model.config
        self.dataset = PromptDataset(prompts, scope=config.scope, anchor=config.anchor)
        self.objective = DifferenceObjective(model)

    def batch(self) -> Batch:
        """Return all of them as one batch."""
        return self.dataset.collate(self.prompts)

    def collected(self, folder: Path) -> CachedDataset:
        """Collect their differences into a folder."""
        return collect_to_disk(folder, self.dataset, self.objective.keep, key={}, limit_gb=16)


def random_data(bench: Bench, model: DiekaeModel, sizes: dict[str, int]) -> RandomData:
    """Return random examples: ``rows`` of them, each with tokens of ``knowledge``, ``bench.inputs`` and ``target``."""
    rows, target = sizes["rows"], sizes["target"]
    ids = bench.ids(sizes["knowledge"] + bench.inputs + target, rows).tolist()
    k, x = sizes["knowledge"], sizes["knowledge"] + bench.inputs
    prompts = [Prompt(bench.anchor, tuple(row[:k]), tuple(row[k:x]), tuple(row[x:])) for row in ids]
    return RandomData(model, prompts)


def _optimizer(parameters: Any) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(list(parameters), 1e-5)

    def step() -> None:
        optimizer.step()
        optimizer.zero_grad()

    return step


def bank_step(objective: Objective, batch: Mapping[str, Any]) -> Way:
    """One step of a bank, as the trainer makes it."""
    step = _optimizer(objective.bank.parameters())

    def run() -> None:
        sums = objective(**batch)
        (sums.loss / sums.positions).backward()
        step()

    return run


def _train(objective: DifferenceObjective, data: CachedDataset) -> None:
    """One epoch over collected differences."""
    step = _optimizer(objective.bank.parameters())
    for batch in DataLoader(data, 8, collate_fn=data.collate):
        sums = objective(**batch)
        (sums.loss / sums.positions).backward()
        step()


def _plain_step(model: DiekaeModel, batch: Batch) -> Way:
    """The step as the published code makes it: the whole decoder twice, head and all, and a loop over encoders."""
    options = (model.config.encoder, model.config.encoder_options)
    widths = model.bank.encoder.embedding_width, model.bank.encoder.width
    banks = [Bank(*options, [layer], *widths) for layer in model.layers]
    step = _optimizer(parameter for bank in banks for parameter in bank.parameters())
    length = batch["knowledge_mask"].shape[1]

    def states(ids: Tensor) -> list[Tensor]:
        found: list[Tensor] = []
        with visiting(model.points, lambda _layer, stream, _output: found.append(stream)):
            model.decoder(input_ids=ids, use_cache=False)
        return found

    def run() -> None:
        with torch.no_grad():
            whole, short = states(batch["full_ids"]), states(batch["input_ids"])
            embed = model.decoder.get_input_embeddings()
        for bank, known, seen in zip(banks, whole, short, strict=True):
            reads_states = bank.encoder.reads != "embeddings"
            known_read = known[:, 1 : 1 + length] if reads_states else embed(batch["full_ids"][:, 1 : 1 + length])
            seen_read = seen if reads_states else embed(batch["input_ids"])
            prepared = bank.prepare(known_read[None], batch["knowledge_mask"])
            guess = bank(prepared, seen_read[None], batch["input_mask"]).difference[0]
            F.mse_loss(guess[:, 1:], known[:, 1 + length :] - seen[:, 1:]).backward()
        step()

    return run


def _lora_step(bench: Bench, batch: Batch) -> Way:
    """One step of LoRA (rank 24, as the paper's), K in the prompt.

    Raises:
        ModuleNotFoundError: PEFT is not installed.
    """
    from diekae.run.score import logits_at
    from diekae_research.methods.decoders import need_peft
    from diekae_research.methods.lora import with_adapters

    need_peft("lora")
    decoder = with_adapters(bench.decoder)
    step = _optimizer(parameter for parameter in decoder.parameters() if parameter.requires_grad)
    labels = batch["labels"][batch["labels"] != -100]

    def run() -> None:
        F.cross_entropy(logits_at(decoder, batch["full_ids"], batch["labels"], batch["offset"]), labels).backward()
        step()

    return run


def _counted(run: Way) -> int:
    """Return the operations of a step, gradients too."""
    return floor.operations(run, gradients=True)


def _timed(bench: Bench, what: str, ways: dict[str, Way]) -> Times:
    return time_in_turn(ways, min(bench.rounds, ROUNDS), lambda done, total: bench.progress(what, done, total))


def _least_step(attached: Attached, inputs: int) -> float:
    """Count a step by its parts, for one example; a gradient costs twice what it is the gradient of."""
    length, seen = STEP["knowledge"], 1 + inputs + STEP["target"]
    full, decoder = length + seen, attached.decoder
    encoders = 3 * (floor.bank_prepare(attached, length) + floor.bank_pass(attached, seen, length))
    ours = floor.states_pass(attached, full) + floor.states_pass(attached, seen) + encoders
    whole = floor.decoder_pass(decoder, full, head=full) + floor.decoder_pass(decoder, seen, head=seen)
    return ours / (whole + encoders)


def _least_epoch(bench: Bench, attached: Attached) -> float:
    """Count an epoch's operations, once the differences are there, against those of the first."""
    length, seen = EPOCH["knowledge"], 1 + bench.inputs + EPOCH["target"]
    encoders = 3 * (floor.bank_prepare(attached, length) + floor.bank_pass(attached, seen, length))
    return encoders / (encoders + floor.states_pass(attached, length + seen) + floor.states_pass(attached, seen))
