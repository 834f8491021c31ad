"""From a decoder and a folder of documents to a bank: read, ask, choose layers, train, measure.

The run's folder holds all intermediate results. So an interrupted run can be resumed, and a run can be repeated with
changes:

    data/{train,validation,test}.jsonl   the questions
    recipe.toml                          how the bank is trained; `diekae train runs/NAME/recipe.toml` repeats it
    study.json                           the decisions, and the measurements that they rest on
"""

import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch

from diekae.data.example import Example, Split, read_examples, write_examples
from diekae.data.prompt import Prompt
from diekae.evaluation.answers import score_answers
from diekae.evaluation.evaluate import evaluate
from diekae.files import write_atomically
from diekae.fingerprint import fingerprint
from diekae.inject.hooks import frozen
from diekae.model import DiekaeModel
from diekae.progress import Progress, silent
from diekae.recipe import read_recipe, run_recipe
from diekae.run.score import Way
from diekae.study.estimate import Needs, estimate_needs
from diekae.study.folder import PARTS, Folder, read_folder
from diekae.study.plan import Deadline, bank_config, choose_layers, fit_steps, measure_pace
from diekae.study.questions import study
from diekae.study.recipe_file import OTHER_LIMIT, write_recipe

ASKED: dict[Split, float] = {"test": 0.1, "validation": 0.15, "train": 0.4}
"""Share of the time after which no more questions are asked about each part, in the order in which they are asked."""
EPOCHS = 4.0
"""Most passes over the questions."""
ANSWERED = 48
"""Held-out questions that are answered."""
LAYER_EXAMPLES = 16
"""Questions that choose the layers."""


@dataclass(frozen=True)
class StudyOptions:
    """The user's choices for a study."""

    minutes: float = 30.0
    """Approximate wall-clock time of the whole run."""
    layers: int | None = None
    """Number of layers that read K; four fifths if neither this nor ``bytes_per_token`` is given."""
    bytes_per_token: int | None = None
    """Most bytes of prepared knowledge for a token of K."""
    questions: int = 600
    """Most questions to train on."""
    batch_size: int = 8
    """Examples of a step. If memory is short, they are read in several smaller batches."""
    seed: int = 0
    """Seed of the questions, the initial weights and the order of training."""


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
    report: Callable[[str], None] = lambda _line: None,
) -> tuple[DiekaeModel, dict[str, Any]]:
    """Train a bank for a decoder on a folder of documents; returns the model, and the result as JSON values.

    Args:
        decoder: Any ``*ForCausalLM`` that can be read exactly.
        tokenizer: Its tokenizer.
        name: Name or folder of the decoder; written into the recipe.
        documents: A folder; None takes the documents that come with the package.
        out: The run's folder.
        options: Time and sizes.
        resume: Continue an earlier run in the folder.
        progress: Called with the progress of each part of the work.
        callbacks: Passed to the Trainer.
        report: Called with a line of text for each decision.

    Raises:
        ValueError: The decoder cannot read K exactly, or documents, questions or minutes are too few.
    """
    begun = time.monotonic()
    exact = DiekaeModel.exact(decoder, tokenizer, template="Context: {knowledge}\n\n")
    recipe_path = out / "recipe.toml"
    if not (resume and recipe_path.is_file()):
        folder = read_folder(documents, tokenizer, progress)
        report(_about(folder))
        needs = _estimate(exact, folder, out, options, report)
        examples = _ask(exact, folder, out / "data", options, begun, resume, progress)
        decided = _decide(exact, examples, needs, out, options, begun, progress)
        report(_summary(decided))
        write_atomically(out / "study.json", json.dumps(decided, indent=2) + "\n")
        write_recipe(out, name, decided, options.seed)
    decided = json.loads((out / "study.json").read_text())
    until = begun + 60 * options.minutes - decided["measuring_seconds"]
    more: dict[str, Any] = {"resume": resume, "progress": progress, "callbacks": [*callbacks, Deadline(until)]}
    model, result = run_recipe(read_recipe(recipe_path), out, loaded=(decoder, tokenizer), **more)
    if result:
        result["answers_right"], result["study"] = _answers(model, out, progress, ["ours"]), decided
        result["minutes"] = (time.monotonic() - begun) / 60
    return model, result


def _about(folder: Folder) -> str:
    counts = ", ".join(f"{len({w.document for w in folder.windows[part]})} to {part}" for part in PARTS)
    failed = f"; {len(folder.failed)} could not be read: {folder.failed[0][1]}" if folder.failed else ""
    skipped = f"; {len(folder.skipped)} files of other kinds skipped" if folder.skipped else ""
    return f"{folder.documents} documents ({counts}){failed}{skipped}"


def _estimate(exact: DiekaeModel, folder: Folder, out: Path, options: StudyOptions, report: Any) -> Needs:
    """Estimate and report what training needs, by the longest text that is learned from."""
    longest = max((window.text for window in folder.windows["train"]), key=len)
    needs = estimate_needs(exact, longest, out, options.layers, options.bytes_per_token, options.batch_size)
    report(needs.describe(options.batch_size))
    return needs


def _ask(
    model: DiekaeModel,
    folder: Folder,
    place: Path,
    options: StudyOptions,
    begun: float,
    resume: bool,
    progress: Progress,
) -> dict[Split, list[Example]]:
    """Return questions about each part. The held-out parts come first, so that a short time does not leave them out."""
    wanted = {"test": max(24, options.questions // 8), "validation": max(16, options.questions // 12)}
    examples: dict[Split, list[Example]] = {}
    for part, share in ASKED.items():
        path = place / f"{part}.jsonl"
        if resume and path.is_file():
            examples[part] = read_examples(path)
            continue
        examples[part] = study(
            model,
            folder.windows[part],
            wanted.get(part, options.questions),
            options.seed,
            f"asking questions to {part}",
            progress,
            until=begun + 60 * options.minutes * share,
        )
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
    needs: Needs,
    out: Path,
    options: StudyOptions,
    begun: float,
    progress: Progress,
) -> dict[str, Any]:
    """Measure, and return the decisions as ``study.json`` holds them."""
    decoder, prompter = exact.decoder, exact.need_prompter()
    prompts = [prompter.prompt(example) for example in examples["train"]]
    chosen = [prompter.prompt(example) for example in examples["validation"][:LAYER_EXAMPLES]]
    layers = choose_layers(decoder, chosen, needs.layers, progress)
    torch.manual_seed(options.seed)
    bank = DiekaeModel(
        decoder, bank_config(layers, exact.config.format == "chat", exact.config.template), prompter.tokenizer
    )
    # The trained bank will be measured in the same time.
    measured = time.monotonic()
    untrained = _untrained(bank, examples["test"], out, progress)
    measuring = time.monotonic() - measured
    random.Random(options.seed).shuffle(prompts)
    pace = measure_pace(bank, prompts[:64], options.batch_size, needs.batch_size)
    left = options.minutes - (time.monotonic() - begun + measuring) / 60
    learned = len(prompts) + (0 if exact.config.format == "qa" else min(OTHER_LIMIT, len(prompts)))
    validation = len(examples["validation"])
    steps = fit_steps(left, pace.seconds, learned, validation, options.batch_size, EPOCHS)
    return {
        "layers": list(layers),
        "depth": needs.depth,
        "bytes_per_token": needs.layer_bytes * needs.layers,
        "parameters": needs.parameters,
        "example_bytes": needs.example_bytes,
        "steps": steps,
        "seconds_a_step": pace.seconds,
        "batch_size": pace.batch_size,
        "gradient_accumulation": pace.accumulation,
        "windows": len({example.knowledge for example in examples["train"]}),
        "questions": {part: len(asked) for part, asked in examples.items()},
        "config": bank.config.to_dict(),
        "decoder": fingerprint(decoder),
        "untrained": untrained,
        "measuring_seconds": measuring,
    }


def _summary(decided: dict[str, Any]) -> str:
    asked = ", ".join(f"{count} questions to {part}" for part, count in decided["questions"].items())
    return (
        f"{asked}; layers {', '.join(map(str, decided['layers']))} read; {decided['steps']} steps of "
        f"{decided['seconds_a_step']:.1f} s, {decided['batch_size']} questions at once"
    )


def _untrained(bank: DiekaeModel, test: Sequence[Example], out: Path, progress: Progress) -> dict[str, Any]:
    """Measure the bank before training, as the trained bank will be measured."""
    prompts: list[Prompt] = [bank.need_prompter().prompt(example) for example in test]
    figures = evaluate(bank, prompts, progress=lambda how, done, of: progress(f"untrained: {how}", done, of))
    return {**figures, "answers_right": _answers(bank, out, progress, get_args(Way))}


def _answers(model: DiekaeModel, out: Path, progress: Progress, ways: Sequence[Way]) -> dict[str, float]:
    """Answer test questions; return the share of right answers by way."""
    examples = read_examples(out / "data" / "test.jsonl", ANSWERED)
    prompts = [model.need_prompter().prompt(example) for example in examples]
    with frozen(model.decoder):
        scores = score_answers(model, prompts, 16, progress, ways)
    return {way: values["right"] for way, values in scores.items()}
