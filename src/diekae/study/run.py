"""From a decoder and a folder of documents to a bank: read, ask, choose layers, train, measure.

What is made on the way lies in the run's folder, so that a run that was cut off goes on and can be repeated or changed:

    data/{train,validation,test}.jsonl   the questions
    recipe.toml                          how the bank is trained; `diekae train runs/NAME/recipe.toml` repeats it
    study.json                           what was decided, and from which figures
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from diekae.config import DiekaeConfig
from diekae.data.example import Example, Split, read_examples, write_examples
from diekae.data.prompt import Prompt
from diekae.evaluation.evaluate import evaluate
from diekae.files import write_atomically
from diekae.fingerprint import fingerprint
from diekae.inject.hookpoints import find_blocks
from diekae.model import DiekaeModel
from diekae.progress import Progress, silent
from diekae.recipe import read_recipe, run_recipe
from diekae.study.folder import PARTS, Folder, read_folder
from diekae.study.plan import (
    bank_config,
    check_disk,
    choose_layers,
    count_layers,
    fit_steps,
    measure_pace,
)
from diekae.study.questions import study

ASKING, MEASURING = 0.3, 0.15
"""Shares of the time for asking questions, and for measuring the bank at the end."""
EPOCHS = 3.0
"""Most passes over the questions."""
UNRELATED = 0.15
"""Share of the questions that are given another's text in training."""
LAYER_EXAMPLES = 16
"""Questions that choose the layers."""
RECIPE = """# Written by `diekae train --decoder`; `diekae train` with this file repeats the training.
name = {name}
decoder = {decoder}
folder = {folder}

[diekae]
layers = {layers}
encoder = "attention"
encoder_options = {encoder_options}
site = "attention"
scope = "all"
format = "{format}"
template = {template}

[training]
objective = "distill"
whole_input = true
max_steps = {steps}
batch_size = {batch_size}
gradient_accumulation = {gradient_accumulation}
learning_rate = 4e-4
start_learning_rate = 5e-5
final_learning_rate = 2e-5
group_by_length = true
evaluations = 2
logging_steps = 5
seed = {seed}

[[data.train]]
source = "jsonl"
folder = "data"
{unrelated}{other_format}
[[data.validation]]
source = "jsonl"
folder = "data"
limit = 32

[[data.test]]
source = "jsonl"
folder = "data"
"""
"""The recipe of a run, to be filled in."""
OTHER_FORMAT = """
[[data.train]]
source = "jsonl"
folder = "data"
format = "qa"
limit = 100
"""
"""Data of a second format, so that the bank can be asked without the chat template too."""


@dataclass(frozen=True)
class StudyOptions:
    """What a user may decide."""

    minutes: float = 30.0
    """Wall-clock time of the whole run, about."""
    layers: int | None = None
    """Layers that read; four fifths if neither this nor ``bytes_per_token`` is given."""
    bytes_per_token: int | None = None
    """Most bytes of prepared knowledge a token of K."""
    questions: int = 600
    """Most questions to train on."""
    batch_size: int = 8
    """Examples a step; fewer at once where memory is short."""
    seed: int = 0
    """Decides questions, start and order."""


def run_study(
    decoder: Any,
    tokenizer: Any,
    name: str,
    documents: Path | None,
    out: Path,
    options: StudyOptions,
    *,
    resume: bool = False,
    progress: Progress = silent,
    callbacks: Sequence[Any] = (),
    report: Any = lambda _line: None,
) -> tuple[DiekaeModel, dict[str, Any]]:
    """Train a bank for a decoder on a folder of documents; returns the model, and the result as JSON values.

    Args:
        decoder: Any ``*ForCausalLM`` that can be read exactly.
        tokenizer: Its tokenizer.
        name: Name or folder of the decoder, for the recipe.
        documents: A folder; None takes the documents that come with the package.
        out: The run's folder.
        options: Time and sizes.
        resume: Go on with an earlier run in the folder.
        progress: Called as the work goes on.
        callbacks: For the Trainer.
        report: Called with each decision, a line of text.

    Raises:
        ValueError: The decoder cannot be read exactly, too few documents or questions, or the time is too short.
    """
    begun = time.monotonic()
    exact = DiekaeModel.exact(decoder, tokenizer, template="Context: {knowledge}\n\n")
    recipe_path = out / "recipe.toml"
    if not (resume and recipe_path.is_file()):
        folder = read_folder(documents, tokenizer, progress)
        report(_about(folder))
        examples = _ask(exact, folder, out / "data", options, begun, resume, progress)
        decided = _decide(exact, examples, out, options, begun, progress)
        report(_summary(decided))
        write_atomically(out / "study.json", json.dumps(decided, indent=2) + "\n")
        write_atomically(recipe_path, _recipe(out, name, decided, options))
    options_of_run: dict[str, Any] = {"resume": resume, "progress": progress, "callbacks": callbacks}
    model, result = run_recipe(read_recipe(recipe_path), out, loaded=(decoder, tokenizer), **options_of_run)
    if result:
        result["study"] = json.loads((out / "study.json").read_text())
        result["untrained"] = _untrained(decoder, tokenizer, model.config, out / "data" / "test.jsonl", progress)
        result["minutes"] = (time.monotonic() - begun) / 60
    return model, result


def _about(folder: Folder) -> str:
    counts = ", ".join(f"{len({w.document for w in folder.windows[part]})} to {part}" for part in PARTS)
    failed = f"; {len(folder.failed)} could not be read: {folder.failed[0][1]}" if folder.failed else ""
    skipped = f"; {len(folder.skipped)} files of other kinds skipped" if folder.skipped else ""
    return f"{folder.documents} documents ({counts}){failed}{skipped}"


def _ask(
    model: DiekaeModel,
    folder: Folder,
    place: Path,
    options: StudyOptions,
    begun: float,
    resume: bool,
    progress: Progress,
) -> dict[Split, list[Example]]:
    """Ask questions about every part, the held-out parts first, so that they have theirs whatever the time."""
    wanted = {"test": max(24, options.questions // 8), "validation": max(16, options.questions // 12)}
    examples: dict[Split, list[Example]] = {}
    for part in reversed(PARTS):
        path = place / f"{part}.jsonl"
        if resume and path.is_file():
            examples[part] = read_examples(path)
            continue
        until = begun + 60 * options.minutes * ASKING * (1.0 if part == "train" else 0.4)
        examples[part] = study(
            model,
            folder.windows[part],
            wanted.get(part, options.questions),
            options.seed,
            f"asking questions to {part}",
            progress,
            until=until,
        ).examples
        if len(examples[part]) < 2:
            raise ValueError(
                f"only {len(examples[part])} questions about the documents to {part} have an answer that follows from "
                "them; give more documents, or a decoder that answers questions better."
            )
        write_examples(path, examples[part])
    return examples


def _decide(
    exact: DiekaeModel,
    examples: dict[Split, list[Example]],
    out: Path,
    options: StudyOptions,
    begun: float,
    progress: Progress,
) -> dict[str, Any]:
    """Choose layers, batch and steps by measuring."""
    decoder, prompter = exact.decoder, exact.need_prompter()
    prompts = [prompter.prompt(example) for example in examples["train"]]
    depth = len(find_blocks(decoder))
    slots = exact.prepare("a few words")
    per_layer = slots.nbytes // (depth * (len(slots) + len(slots.anchor_ids)))
    count = count_layers(depth, options.layers, options.bytes_per_token, per_layer)
    chosen = [prompter.prompt(example) for example in examples["validation"][:LAYER_EXAMPLES]]
    layers = choose_layers(decoder, chosen, count, progress)
    torch.manual_seed(options.seed)
    bank = DiekaeModel(
        decoder, bank_config(layers, exact.config.format == "chat", exact.config.template), prompter.tokenizer
    )
    parameters = sum(parameter.numel() for parameter in bank.bank.parameters())
    check_disk(out, parameters)
    random.Random(options.seed).shuffle(prompts)
    pace = measure_pace(bank, prompts[:64], options.batch_size)
    left = options.minutes * (1 - MEASURING) - (time.monotonic() - begun) / 60
    steps = fit_steps(left, pace.seconds, len(prompts), options.batch_size, EPOCHS)
    return {
        "layers": list(layers),
        "depth": depth,
        "bytes_per_token": per_layer * count,
        "parameters": parameters,
        "steps": steps,
        "seconds_a_step": pace.seconds,
        "batch_size": pace.batch_size,
        "gradient_accumulation": pace.accumulation,
        "windows": len({example.knowledge for example in examples["train"]}),
        "questions": {part: len(found) for part, found in examples.items()},
        "config": bank.config.to_dict(),
        "decoder": fingerprint(decoder),
    }


def _summary(decided: dict[str, Any]) -> str:
    asked = ", ".join(f"{count} questions to {part}" for part, count in decided["questions"].items())
    whole = decided["bytes_per_token"] // len(decided["layers"]) * decided["depth"]
    return (
        f"{asked}; {len(decided['layers'])} of {decided['depth']} layers read, {decided['bytes_per_token']} bytes a "
        f"token of K ({whole} in all layers); {decided['parameters'] / 1e6:.1f} M parameters; {decided['steps']} steps "
        f"of {decided['seconds_a_step']:.1f} s, {decided['batch_size']} questions at once"
    )


def _recipe(out: Path, decoder: str, decided: dict[str, Any], options: StudyOptions) -> str:
    """Return the recipe as TOML."""
    config = decided["config"]
    sizes = ", ".join(f"{name} = {config['encoder_options'][name]}" for name in ("rank", "mlp_width"))
    return RECIPE.format(
        name=json.dumps(out.name),
        decoder=json.dumps(decoder),
        folder=json.dumps(str(out)),
        layers=decided["layers"],
        encoder_options=f"{{ {sizes} }}",
        format=config["format"],
        template=json.dumps(config["template"]),
        steps=decided["steps"],
        batch_size=decided["batch_size"],
        gradient_accumulation=decided["gradient_accumulation"],
        seed=options.seed,
        # Knowledge that says nothing about the question must change nothing.
        unrelated=f"unrelated = {UNRELATED}\n" if decided["windows"] > 1 else "",
        other_format=OTHER_FORMAT if config["format"] != "qa" else "",
    )


def _untrained(decoder: Any, tokenizer: Any, config: DiekaeConfig, test: Path, progress: Progress) -> dict[str, Any]:
    """Measure the same layers without training."""
    bank = DiekaeModel(decoder, config, tokenizer)
    prompter = bank.need_prompter()
    prompts: list[Prompt] = [prompter.prompt(example) for example in read_examples(test)]
    return evaluate(bank, prompts, time_passes=False, progress=lambda how, d, n: progress(f"untrained: {how}", d, n))
