"""A training step against the published one, epochs from cached differences, and fine-tuning against LoRA."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diekae.inject.attached import Attached
from diekae.inject.hooks import frozen
from diekae.run.timing import TimedCall, Times, time_in_turn
from diekae.training.objectives import CrossEntropyObjective, difference_objective
from diekae_research.bench import counters, floor
from diekae_research.bench.llama import llama2_7b, llama2_7b_bank
from diekae_research.bench.setting import Bench, Comparison
from diekae_research.bench.steps import bank_step, cached_epochs, lora_step, plain_step, random_batch

STEP = {"rows": 2, "knowledge": 192, "target": 8}
"""Sizes of the batch of a step on differences."""
EPOCH = {"rows": 8, "knowledge": 128, "target": 8}
"""Sizes of an epoch."""
FINE = {"rows": 1, "knowledge": 512, "target": 16}
"""Sizes of a batch of fine-tuning."""
FROM_CACHE = ", K's states from the cache"
"""Follows a bank's name where its states of K come from the cache, as in every epoch but the first."""
ROUNDS = 3
"""Most rounds: a step takes many seconds on a slow core."""
STEP_TITLE = "training step, {}, against two full forwards and a loop over encoders"


def measure(bench: Bench) -> dict[str, Any]:
    """Measure steps, epochs and fine-tuning."""
    seconds: dict[str, Times] = {}
    with frozen(bench.decoder):
        rows = [*_steps(bench, seconds), *_epochs(bench, seconds), *_fine_tuning(bench, seconds)]
    return {"rows": rows, "seconds": seconds}


def _steps(bench: Bench, seconds: dict[str, Times]) -> list[Comparison]:
    """Compare a step on differences with the published code's."""
    rows = []
    for name, aim in (("token", 0.40), ("reader", None)):
        model = bench.model(name)
        batch = random_batch(bench, model, STEP)
        ways = {"plain": plain_step(model, batch), "ours": bank_step(difference_objective(model), batch)}
        counts = _count(ways)
        times = seconds[f"step_{name}"] = _time(bench, f"step, {name}", ways)
        layers = f"layers {model.layers[0]}–{model.layers[-1]}"
        note = f"{STEP['rows']} examples of |K| {STEP['knowledge']}, |x| {bench.inputs}; {layers}; floor by operations"
        least = counts["ours"] / counts["plain"]
        rows.append(Comparison(STEP_TITLE.format(name), aim, times.ratio("ours", "plain"), least, note=note))
    title = f"{STEP_TITLE.format('token')}, LLaMA2-7B's shape"
    least = _least_step(llama2_7b_bank(llama2_7b(), "token"), bench.inputs)
    return [*rows, Comparison(title, 0.33, None, least, note="by operations; seconds not measured")]


def _epochs(bench: Bench, seconds: dict[str, Times]) -> list[Comparison]:
    """Compare an epoch that reads cached differences with the one that collects them."""
    rows = []
    for name in ("token", "reader"):
        model = bench.model(name)
        with tempfile.TemporaryDirectory() as folder:
            ways = cached_epochs(bench, model, EPOCH, Path(folder))
            times = seconds[f"epoch_{name}"] = _time(bench, f"epoch, {name}", ways)
        title = f"epoch from cached differences, {name}, against the first"
        note = f"{EPOCH['rows']} examples of |K| {EPOCH['knowledge']}, |x| {bench.inputs}"
        least = _least_epoch(model.attached, bench.inputs)
        rows.append(Comparison(title, 0.1, times.ratio("later", "first"), least, note=note))
    return rows


def _fine_tuning(bench: Bench, seconds: dict[str, Times]) -> list[Comparison]:
    """Compare cross-entropy through the injected decoder with LoRA, K in its context."""
    sizes = {**FINE, "knowledge": min(FINE["knowledge"], bench.room - FINE["target"])}
    ways: dict[str, TimedCall] = {"lora": lora_step(bench, random_batch(bench, bench.model("token"), sizes))}
    for name in ("token", "reader", "attention"):
        model = bench.model(name, scope="all")
        objective = CrossEntropyObjective(model)
        batch = random_batch(bench, model, sizes)
        ways[name] = bank_step(objective, batch)
        if name != "token":  # it reads embeddings: there are no states to cache
            ways[f"{name}{FROM_CACHE}"] = bank_step(objective, objective.keep(batch))
    counts = _count(ways)
    times = seconds["fine"] = _time(bench, "fine-tuning", ways)
    note = f"|K| {sizes['knowledge']}, |x| {bench.inputs}, {sizes['target']} target tokens; floor by operations"
    rows = []
    for name in ways:
        if name != "lora":
            title = f"tokens a second of cross-entropy, {name}, against LoRA with K in context"
            aim = 3.0 if name == "token" or name.endswith(FROM_CACHE) else None
            least = counts["lora"] / counts[name]
            rows.append(Comparison(title, aim, times.ratio("lora", name), least, at_least=True, note=note))
    return rows


def _count(ways: Mapping[str, TimedCall]) -> dict[str, int]:
    """Return the operations of each way, those of gradients included."""
    return {name: counters.operations(way, gradients=True) for name, way in ways.items()}


def _time(bench: Bench, label: str, ways: Mapping[str, TimedCall]) -> Times:
    return time_in_turn(ways, min(bench.rounds, ROUNDS), lambda done, total: bench.progress(label, done, total))


def _least_step(attached: Attached, inputs: int) -> float:
    """Return the operations of our step as a ratio to the published one's, for one example."""
    length, columns, decoder = STEP["knowledge"], 1 + inputs + STEP["target"], attached.decoder
    encoders = _encoder_step(attached, length, columns)
    states = floor.states_pass(attached, length + columns) + floor.states_pass(attached, columns)
    passes = sum(floor.decoder_pass(decoder, new, head=new) for new in (length + columns, columns))
    return (states + encoders) / (passes + encoders)


def _least_epoch(attached: Attached, inputs: int) -> float:
    """Return the operations of a later epoch as a ratio to those of the first."""
    length, columns = EPOCH["knowledge"], 1 + inputs + EPOCH["target"]
    encoders = _encoder_step(attached, length, columns)
    return encoders / (encoders + floor.states_pass(attached, length + columns) + floor.states_pass(attached, columns))


def _encoder_step(attached: Attached, length: int, columns: int) -> int:
    """Return the operations of the encoders in one step; gradients cost twice what the forward does."""
    return 3 * (floor.bank_prepare(attached, length) + floor.bank_pass(attached, columns, length))
