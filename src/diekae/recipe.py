"""Recipes: complete runs as files, from raw data to a bank and its figures."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from diekae.config import DiekaeConfig
from diekae.data.mixture import DataSpec, load_mixture, load_prompts
from diekae.data.prompt import Prompt
from diekae.evaluation import evaluate
from diekae.evaluation.metrics import mean_defined
from diekae.inject.hooks import frozen
from diekae.model import DiekaeModel
from diekae.models import DTYPES, load_decoder, settled_device
from diekae.progress import Progress, silent
from diekae.run.score import nll
from diekae.training.config import TrainingConfig
from diekae.training.run import processes, train
from diekae.training.stopwatch import seconds_of

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Recipe:
    """One run."""

    name: str
    """Names the run's folder."""
    decoder: str
    """Name or folder of the decoder."""
    dtype: str
    """Type the decoder is loaded in, one of :data:`diekae.models.DTYPES`; auto: what is fast where it runs."""
    device: str
    """Where decoder and bank stand, as :func:`diekae.models.settled_device` says; auto: a GPU where there is one."""
    folder: str | None
    """Folder that the data sets' folders are relative to."""
    bank: str | None
    """A trained bank to go on from: its folder, or the name of a shipped one; it says itself what it is."""
    diekae: DiekaeConfig | None
    """What a new bank is; None where one is gone on from."""
    stages: tuple[TrainingConfig, ...]
    """How it is trained: one stage after the other, each from where the last one ended."""
    data: dict[str, tuple[DataSpec, ...]]
    """Sources of the parts train, validation and test."""

    def placed(self, part: str) -> list[DataSpec]:
        """Return the part's specs with folders made whole."""
        base = Path(self.folder or "")
        return [
            dataclasses.replace(spec, folder=str(base / spec.folder)) if spec.folder else spec
            for spec in self.data[part]
        ]


def read_recipe(path: str | Path, settings: Sequence[str] = ()) -> Recipe:
    """Read a recipe file (TOML), with settings like ``training.epochs=3`` on top.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file or a setting is not understood.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no recipe at {str(path)!r}; expected a TOML file, such as those under recipes/.")
    try:
        values = tomllib.loads(Path(path).read_text())
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: not TOML ({error}).") from error
    for setting in settings:
        _set(values, setting)
    return make_recipe(values, str(path))


def make_recipe(values: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """Build a recipe from its tables.

    Raises:
        ValueError: A key is unknown or a part of the data is missing.
    """
    known = {"name", "decoder", "dtype", "device", "folder", "bank", "preset", "diekae", "training", "stage", "data"}
    if unknown := set(values) - known:
        raise ValueError(f"{where}: unknown keys {sorted(unknown)}; expected {sorted(known)}.")
    if values.get("dtype", "auto") not in DTYPES:
        raise ValueError(f"{where}: dtype={values['dtype']!r} is not known; choose one of {', '.join(DTYPES)}.")
    _check_device(values.get("device", "auto"), where)
    bank = values.get("bank")
    if bank is not None and (given := {"preset", "diekae"} & set(values)):
        raise ValueError(
            f"{where}: bank={bank!r} says itself what it is, so {' and '.join(sorted(given))} cannot change it; leave "
            "out the one or the other."
        )
    data = {}
    for part in PARTS:
        specs = values.get("data", {}).get(part)
        if not specs:
            raise ValueError(f"{where}: no [[data.{part}]]; a recipe names at least one source for each of {PARTS}.")
        try:
            data[part] = tuple(DataSpec(**{"split": part, **spec}) for spec in specs)
        except TypeError as error:
            raise ValueError(f"{where}: [[data.{part}]] {error}.") from error
    stages = _stages(values, where)
    _check_unrelated(stages, data, where)
    return Recipe(
        values.get("name", Path(where).stem),
        values.get("decoder", "smollm2"),
        values.get("dtype", "auto"),
        values.get("device", "auto"),
        values.get("folder"),
        bank,
        None if bank is not None else DiekaeConfig.preset(values.get("preset", "default"), **values.get("diekae", {})),
        stages,
        data,
    )


def _check_device(name: Any, where: str) -> None:
    """Check a device's spelling; whether it is here is asked when the recipe runs, which may be elsewhere."""
    try:
        if name != "auto":
            torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"{where}: device={name!r} is not understood; expected auto, cpu, cuda or cuda:N.") from error


def _stages(values: Mapping[str, Any], where: str) -> tuple[TrainingConfig, ...]:
    """Build the stages: ``[training]`` alone, or every ``[[stage]]`` on top of it."""
    shared, stages = values.get("training", {}), values.get("stage", [{}])
    if not isinstance(stages, list) or not stages:
        raise ValueError(f"{where}: stage={stages!r} is not understood; write each stage as a table [[stage]].")
    return tuple(TrainingConfig.from_dict({**shared, **stage}) for stage in stages)


def _check_unrelated(stages: Sequence[TrainingConfig], data: Mapping[str, Sequence[DataSpec]], where: str) -> None:
    """Refuse knowledge that says nothing about x where the target is taught whatever K is.

    Raises:
        ValueError: A stage would teach targets from another example's knowledge, or choose by them.
    """
    if not any(stage.objective == "cross_entropy" for stage in stages):
        return
    for part in ("train", "validation"):
        for spec in data[part]:
            if spec.unrelated:
                raise ValueError(
                    f"{where}: [[data.{part}]] of {spec.source!r} has unrelated={spec.unrelated}, but under "
                    "objective='cross_entropy' the bank would learn to say the target from knowledge that does not "
                    "hold it. Leave unrelated out, or train by 'difference' or 'distill', which keep to what D(K, x) "
                    "makes of such knowledge."
                )


def _set(values: dict[str, Any], setting: str) -> None:
    """Apply one ``a.b=value``; the value is TOML, or a text where it is none."""
    name, equals, text = setting.partition("=")
    if not equals or not name.strip():
        raise ValueError(f"setting {setting!r} is not understood; expected key=value, as in training.epochs=3.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *path, last = name.strip().split(".")
    table: Any = values
    try:
        for key in path:
            table = table[int(key)] if isinstance(table, list) else table.setdefault(key, {})
        table[int(last) if isinstance(table, list) else last] = value
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise ValueError(
            f"setting {setting!r} names no place in the recipe ({error}); lists are counted from 0, as in "
            "data.test.0.limit=100."
        ) from error


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
        recipe: What to do.
        out: Folder for checkpoints, logs and the bank.
        resume: Go on where an earlier call was cut off.
        progress: Told what is being done and how far it is.
        callbacks: More of the Trainer's callbacks.
        loaded: Decoder and tokenizer, if they are loaded already; the recipe's decoder, dtype and device then do not
            count.

    Returns:
        The trained model, and the result as JSON values; processes other than the main one get no result.
    """
    decoder, tokenizer = loaded or load_decoder(
        recipe.decoder, dtype=DTYPES[recipe.dtype], device=settled_device(recipe.device)
    )
    seed = recipe.stages[0].seed
    torch.manual_seed(seed)
    if recipe.bank is None:
        model = DiekaeModel(decoder, recipe.diekae, tokenizer)
    else:
        model = DiekaeModel.from_pretrained(recipe.bank, decoder, tokenizer)
    prompter = model.need_prompter()
    learn, check = (load_mixture(recipe.placed(part), seed, prompter) for part in ("train", "validation"))
    log = _train_stages(model, recipe, learn, check, Path(out), resume, progress, callbacks)
    if not processes().is_main_process:
        return model, {}
    sets: dict[str, dict[str, Any]] = {}
    for spec in recipe.placed("test"):
        prompts = load_prompts(spec, seed, prompter)
        name = spec.source if spec.source not in sets else f"{spec.source} {len(sets) + 1}"
        sets[name] = evaluate(
            model,
            prompts,
            max_knowledge=recipe.stages[-1].max_knowledge,
            progress=lambda how, done, total, name=name: progress(f"{name}: {how}", done, total),  # type: ignore[misc]
        )
    return model, {
        "recipe": _portable(recipe, model.config),
        "examples": {"train": len(learn), "validation": len(check)},
        "parameters": sum(parameter.numel() for parameter in model.bank.parameters()),
        "layers": list(model.layers),
        "training_seconds": sum(seconds_of(_place(recipe, number, Path(out))) for number in range(len(recipe.stages))),
        "sets": sets,
        "mean": {name: mean_defined([found[name] for found in sets.values()]) for name in ("recovered", "grounded")},
        "log": log,
    }


def _train_stages(
    model: DiekaeModel,
    recipe: Recipe,
    learn: Sequence[Prompt],
    check: Sequence[Prompt],
    out: Path,
    resume: bool,
    progress: Progress,
    callbacks: Sequence[Any],
) -> list[dict[str, Any]]:
    """Train stage after stage; several have a subfolder each. Returns the log, each line with its stage."""
    monitor, log = _recovered(model, check[:48]), list[dict[str, Any]]()
    for number, stage in enumerate(recipe.stages):
        folder = _place(recipe, number, out)
        lines = train(
            model, learn, check, stage, folder, resume=resume, monitor=monitor, progress=progress, callbacks=callbacks
        )
        log += [{"stage": number, **line} for line in lines]
    if processes().is_main_process and len(recipe.stages) > 1:
        model.save_pretrained(out / "bank")
    return log


def _place(recipe: Recipe, number: int, out: Path) -> Path:
    """Return a stage's folder: the run's own where it has but one."""
    return out if len(recipe.stages) == 1 else out / f"{number + 1}-{recipe.stages[number].objective}"


def _portable(recipe: Recipe, config: DiekaeConfig) -> dict[str, Any]:
    """Return the recipe as JSON values, without the paths of one machine, which say nothing to a reader."""
    values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(recipe)))
    values["folder"] = None
    values["bank"] = Path(recipe.bank).name if recipe.bank else None
    values["diekae"] = config.to_dict()
    for specs in values["data"].values():
        for spec in specs:
            spec["folder"] = Path(spec["folder"]).name if spec["folder"] else None
    for stage in values["stages"]:
        stage["cache"] = bool(stage["cache"])
    return values


def _recovered(model: DiekaeModel, prompts: Sequence[Prompt]) -> Callable[[], dict[str, float]]:
    """Measure ``recovered`` on some validation examples; D(x) and D(K, x) are run once."""
    ends: list[float] = []

    def monitor() -> dict[str, float]:
        with torch.no_grad(), frozen(model.decoder):
            if not ends:
                ends.extend(nll(model, prompts, how).mean for how in ("bare", "prompted"))
            ours = nll(model, prompts, "ours").mean
        gap = ends[0] - ends[1]
        return {"nll": ours, "recovered": (ends[0] - ours) / gap if gap >= 0.05 else 0.0}

    return monitor
