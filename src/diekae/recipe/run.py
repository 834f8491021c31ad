"""Run a recipe: train a bank, and measure it on every test source."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from diekae.config import DiekaeConfig
from diekae.data.mixture import load_mixture, load_prompts
from diekae.data.prompt import Prompt
from diekae.evaluation import evaluate
from diekae.evaluation.metrics import Scores, mean_defined
from diekae.files import as_path
from diekae.hub import is_public
from diekae.inject.hooks import frozen
from diekae.model import DiekaeModel
from diekae.models import DTYPES, load_decoder, resolve_device
from diekae.progress import Progress, silent
from diekae.recipe.recipe import Recipe
from diekae.run.score import nll
from diekae.training.callbacks import seconds_of
from diekae.training.run import processes, train

MONITORED = 48
"""Validation examples on which ``recovered`` is measured during training."""


def run_recipe(
    recipe: Recipe,
    out: str | Path,
    *,
    resume: bool = False,
    progress: Progress = silent,
    callbacks: Sequence[Any] = (),
    loaded: tuple[Any, Any] | None = None,
) -> tuple[DiekaeModel, dict[str, Any]]:
    """Train a bank and measure it on every test source.

    Args:
        recipe: The run.
        out: Folder of checkpoints, logs and the bank.
        resume: Continue where an earlier call was interrupted.
        progress: Called as the work goes on.
        callbacks: More of the Trainer's callbacks.
        loaded: Decoder and tokenizer, if they are loaded already; replaces the recipe's decoder, dtype and device.

    Returns:
        The trained model, and the result as JSON values, which is empty in processes other than the main one.
    """
    out, seed = as_path(out), recipe.stages[0].seed
    model = _make_model(recipe, loaded)
    prompter = model.need_prompter()
    training, validation = (load_mixture(recipe.sources(part), seed, prompter) for part in ("train", "validation"))
    log = _train_stages(model, recipe, training, validation, out, resume, progress, callbacks)
    if not processes().is_main_process:
        return model, {}
    sets = _measure(model, recipe, progress)
    return model, {
        "recipe": _portable(recipe, model.config),
        "examples": {"train": len(training), "validation": len(validation)},
        "parameters": sum(parameter.numel() for parameter in model.bank.parameters()),
        "layers": list(model.layers),
        "training_seconds": sum(seconds_of(_stage_folder(recipe, n, out)) for n in range(len(recipe.stages))),
        "sets": sets,
        "mean": {
            name: mean_defined([figures[name] for figures in sets.values()]) for name in ("recovered", "grounded")
        },
        "log": log,
    }


def _make_model(recipe: Recipe, loaded: tuple[Any, Any] | None) -> DiekaeModel:
    decoder, tokenizer = loaded or load_decoder(
        recipe.decoder, dtype=DTYPES[recipe.dtype], device=resolve_device(recipe.device)
    )
    torch.manual_seed(recipe.stages[0].seed)
    if recipe.bank is None:
        return DiekaeModel(decoder, recipe.diekae, tokenizer)
    return DiekaeModel.from_pretrained(recipe.bank, decoder, tokenizer)


def _train_stages(
    model: DiekaeModel,
    recipe: Recipe,
    training: Sequence[Prompt],
    validation: Sequence[Prompt],
    out: Path,
    resume: bool,
    progress: Progress,
    callbacks: Sequence[Any],
) -> list[dict[str, Any]]:
    """Train stage after stage; several stages have a subfolder each. Return the log, each line with its stage."""
    monitor, log = _monitor(model, validation[:MONITORED]), list[dict[str, Any]]()
    for number, stage in enumerate(recipe.stages):
        lines = train(
            model,
            training,
            validation,
            stage,
            _stage_folder(recipe, number, out),
            resume=resume,
            monitor=monitor,
            progress=progress,
            callbacks=callbacks,
        )
        log += [{"stage": number, **line} for line in lines]
    if processes().is_main_process and len(recipe.stages) > 1:
        model.save_pretrained(out / "bank")
    return log


def _stage_folder(recipe: Recipe, number: int, out: Path) -> Path:
    """Return a stage's folder. A single stage uses the run's own."""
    return out if len(recipe.stages) == 1 else out / f"{number + 1}-{recipe.stages[number].objective}"


def _monitor(model: DiekaeModel, prompts: Sequence[Prompt]) -> Callable[[], dict[str, float]]:
    """Return a function that measures ``recovered`` on some validation examples. D(x) and D(K, x) run only once."""
    references: list[float] = []

    def measure() -> dict[str, float]:
        with torch.no_grad(), frozen(model.decoder):
            if not references:
                references.extend((nll(model, prompts, "bare").mean, nll(model, prompts, "prompted").mean))
            ours = nll(model, prompts, "ours").mean
        bare, prompted = references
        return {"nll": ours, "recovered": Scores(bare, prompted, ours).recovered or 0.0}

    return measure


def _measure(model: DiekaeModel, recipe: Recipe, progress: Progress) -> dict[str, dict[str, Any]]:
    """Evaluate on every test source, by name; a name that occurs again gets a number."""
    sets: dict[str, dict[str, Any]] = {}
    for spec in recipe.sources("test"):
        prompts = load_prompts(spec, recipe.stages[0].seed, model.need_prompter())
        name = spec.source if spec.source not in sets else f"{spec.source} {len(sets) + 1}"
        sets[name] = evaluate(
            model,
            prompts,
            max_knowledge=recipe.stages[-1].max_knowledge,
            progress=partial(_named_progress, progress, name),
        )
    return sets


def _named_progress(progress: Progress, name: str, what: str, done: int, total: int) -> None:
    progress(f"{name}: {what}", done, total)


def _portable(recipe: Recipe, config: DiekaeConfig) -> dict[str, Any]:
    """Return the recipe as JSON values, without the paths of this machine."""
    values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(recipe)))
    values["folder"] = None
    values["decoder"] = recipe.decoder if is_public(recipe.decoder) else Path(recipe.decoder).name
    values["bank"] = Path(recipe.bank).name if recipe.bank else None
    values["diekae"] = config.to_dict()
    for specs in values["data"].values():
        for spec in specs:
            spec["folder"] = Path(spec["folder"]).name if spec["folder"] else None
    for stage in values["stages"]:
        stage["cache"] = bool(stage["cache"])
    return values
