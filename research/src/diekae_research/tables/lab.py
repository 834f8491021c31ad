"""What all tables share: the decoder, the data sets that are present, the tasks for methods, and the cells."""

from __future__ import annotations

import dataclasses
import functools
import random
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from diekae.config import DiekaeConfig, resolve_layers
from diekae.data.example import DataError
from diekae.data.mixture import DataSpec, choose_prompts
from diekae.data.prompt import Prompt, Prompter, truncate_knowledge
from diekae.data.splits import halves
from diekae.fingerprint import window
from diekae.inject.hookpoints import find_blocks
from diekae.models import DTYPES, load_decoder
from diekae.progress import Progress, silent
from diekae.training.config import Precision, TrainingConfig
from diekae_research.cells import Cells, decoder_settings, digest_prompts
from diekae_research.methods import Task, constants_of
from diekae_research.methods.base import without_knowledge
from diekae_research.provenance import key_of
from diekae_research.tables.plan import EVALUATIONS, QUESTION_SETS, Plan

UNTRAINED = ("bare", "prompted", "prompted_cached")
"""Methods that are not trained."""
WITHOUT_BANK = ("lora", "sft", "cartridge")
"""Methods that train something else than a bank. Of its configuration they use only the layout of prompts."""
MICRO_BATCH = 4
"""Examples that a training step holds in memory together: gradients of sixteen through a decoder take gigabytes."""
CACHE_GB = 4.0
"""Largest cache of differences; larger ones are collected again in every epoch."""


class SetParts(NamedTuple):
    """The prompts of one data set."""

    train: list[Prompt]
    """Examples to learn from."""
    validation: list[Prompt]
    """Examples that choose checkpoints; never reported."""
    test: list[Prompt]
    """Examples that are reported."""


class Lab:
    """Decoder, data and results of one plan."""

    def __init__(self, plan: Plan, out: str | Path, progress: Progress = silent, *, device: str = "cpu") -> None:
        """Load the decoder.

        Args:
            plan: What to measure.
            out: Folder for cells and, while a method is trained, for its checkpoints.
            progress: Called with the progress.
            device: Where the decoder runs.

        Raises:
            ValueError: The decoder cannot be loaded.
        """
        self.plan = plan = plan.on(device)
        self.out, self.progress = Path(out), progress
        self.decoder, self.tokenizer = load_decoder(plan.model, dtype=DTYPES[plan.dtype], device=device)
        self.config = plan.config
        self.prompter = Prompter(self.tokenizer, self.config.template, self.config.format)
        self.cells = Cells(self.out / "cells")
        self.missing: dict[str, str] = {}
        """Data sets that are missing, and why."""
        self.left_out: dict[str, dict[str, list[int]]] = {}
        """By data set and part: how many examples exceed the plan's ``longest``, of how many."""
        self._parts: dict[str, SetParts | None] = {}

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """Return the settings that every result depends on."""
        return {**decoder_settings(self.decoder), "seed": self.plan.seed, "batch_size": self.plan.batch_size}

    @property
    def window(self) -> int:
        """Return the decoder's window in tokens."""
        return window(self.decoder)

    def present(self, names: Sequence[str]) -> list[str]:
        """Return the data sets that are present with all parts; :attr:`missing` says why others are not.

        Raises:
            DataError: None is present.
        """
        names = self.plan.sets or names
        present = [name for name in names if self._load_parts(name) is not None]
        if not present:
            reasons = "; ".join(f"{name}: {self.missing[name]}" for name in names)
            raise DataError(f"all data sets of this table are missing: {reasons}")
        return present

    def parts(self, name: str) -> SetParts:
        """Return the prompts of a data set that is present."""
        parts = self._load_parts(name)
        assert parts is not None, f"{name} is missing; call `present` first"
        return parts

    def mixture(self, sets: Sequence[str]) -> tuple[list[Prompt], list[Prompt]]:
        """Return the training examples of all sets, shuffled together, and their validation examples."""
        train = [prompt for name in sets for prompt in self.parts(name).train]
        validation = [prompt for name in sets for prompt in self.parts(name).validation]
        random.Random(self.plan.seed).shuffle(train)
        return train, validation

    def _load_parts(self, name: str) -> SetParts | None:
        if name not in self._parts:
            plan = self.plan
            try:
                train = self.load(name, "train", plan.train_examples)
                validation, test = self._load_held_out(name)
                self._parts[name] = SetParts(train, validation[: plan.validation_examples], test[: plan.limit])
            except DataError as error:
                # Results are read on other machines, where this machine's folders mean nothing.
                self._parts[name], self.missing[name] = None, str(error).replace(str(plan.data), "DATA")
        return self._parts[name]

    def _load_held_out(self, name: str) -> tuple[list[Prompt], list[Prompt]]:
        """Return validation and test examples; a set without a test part has its validation part halved."""
        try:
            test = self.load(name, "test", self.plan.limit)
        except DataError:
            return halves(self.load(name, "validation", None))
        return self.load(name, "validation", self.plan.validation_examples), test

    def load(self, name: str, split: str, limit: int | None) -> list[Prompt]:
        """Load one part of one data set.

        Raises:
            DataError: It is missing.
        """
        folder = str(self.plan.data / name)
        form = "qa" if name in QUESTION_SETS else None
        spec = DataSpec(name, folder, split=split, limit=limit, longest=self.plan.longest, format=form)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `diekae-research data build` is where bad records are reported
            chosen = choose_prompts(spec, self.plan.seed, self.prompter)
        self.left_out.setdefault(name, {})[split] = [chosen.left_out, chosen.left_out + len(chosen.prompts)]
        return self._fit_window(name, chosen.prompts)

    def _fit_window(self, name: str, prompts: Sequence[Prompt]) -> list[Prompt]:
        """Cut K to the window, and leave out prompts whose input and target alone exceed it, with a warning."""
        fitting = [p for p in prompts if 2 * len(p.anchor) + len(p.input) + len(p.target) < self.window]
        if not fitting:
            raise DataError(f"source {name!r}: no input and target fit the decoder's window of {self.window} tokens")
        if len(fitting) < len(prompts):
            count = len(prompts) - len(fitting)
            warnings.warn(f"source {name!r}: {count} examples do not fit the decoder's window", stacklevel=2)
        return truncate_knowledge(fitting, None, self.window)

    def task(
        self,
        train: Sequence[Prompt],
        validation: Sequence[Prompt],
        *,
        config: DiekaeConfig | None = None,
        epochs: float | None = None,
        knowledge: bool = True,
    ) -> Task:
        """Return a task. Equal tasks share a folder, so that a method can start from the bank of another.

        Args:
            train: Examples to learn from.
            validation: Examples that choose checkpoints.
            config: Configuration of the bank; None is the plan's preset.
            epochs: Passes over the examples; None is the plan's number.
            knowledge: Whether K is given.
        """
        config = config or self.config
        training = TrainingConfig(
            epochs=epochs or self.plan.epochs,
            batch_size=MICRO_BATCH,
            gradient_accumulation=max(1, min(self.plan.batch_size, len(train)) // MICRO_BATCH),
            evaluations=EVALUATIONS,
            precision=cast(Precision, self.plan.dtype),
            seed=self.plan.seed,
        )
        task = Task(
            decoder=self.decoder,
            tokenizer=self.tokenizer,
            train=train,
            validation=validation,
            folder=self.out / "work",
            training=training,
            learning_rates=self.plan.learning_rates,
            diekae=config,
            knowledge=knowledge,
            resume=True,
            progress=self.progress,
        )
        folder = self.out / "work" / key_of(self._task_settings(task))
        cache_gb = self._cache_gb(train if knowledge else without_knowledge(train), config)
        if cache_gb <= CACHE_GB and training.epochs > 1 and config.rollout == "teacher":
            training = dataclasses.replace(training, cache=str(folder / "differences"))
        return dataclasses.replace(task, folder=folder, training=training)

    def _cache_gb(self, prompts: Sequence[Prompt], config: DiekaeConfig) -> float:
        """Return the size of all layers' differences on disk in GB (bf16)."""
        width = int(self.decoder.config.get_text_config(decoder=True).hidden_size)
        layers = len(resolve_layers(config.layers, len(find_blocks(self.decoder))))
        return layers * width * 2 * sum(len(p.knowledge) + 2 * (len(p.input) + len(p.target)) for p in prompts) / 1e9

    def settings(self, method: str, task: Task) -> dict[str, Any]:
        """Return all that a method's figures depend on, except what is scored."""
        layout = {"anchor": task.diekae.anchor, "knowledge": task.knowledge}
        if method in UNTRAINED:
            return {**self.identity, **layout, "method": method}
        settings = self._task_settings(task)
        if method in WITHOUT_BANK:
            del settings["diekae"]
            settings |= layout
        return {**settings, "method": method, "constants": constants_of(method)}

    def _task_settings(self, task: Task) -> dict[str, Any]:
        """Return all that fitting a method depends on, as JSON values."""
        training = dataclasses.asdict(task.training)
        for name in ("cache", "cache_limit_gb"):  # no figure depends on where differences are stored
            del training[name]
        return {
            **self.identity,
            "train": digest_prompts(task.train),
            "validation": digest_prompts(task.validation),
            "training": {**training, "betas": list(training["betas"])},
            "diekae": task.diekae.to_dict(),
            "knowledge": task.knowledge,
            "learning_rates": dict(task.learning_rates),
        }

    def tidy(self) -> None:
        """Remove checkpoints and collected differences; the cells keep the results."""
        shutil.rmtree(self.out / "work", ignore_errors=True)
