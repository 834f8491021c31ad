"""What all tables share: the decoder, the data sets at hand, the tasks that methods are fitted to, the cells."""

from __future__ import annotations

import dataclasses
import functools
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from diekae.config import DiekaeConfig, resolve_layers
from diekae.data.example import DataError
from diekae.data.mixture import DataSpec, choose_prompts
from diekae.data.prompt import Prompt, Prompter, truncate_knowledge
from diekae.data.splits import halves
from diekae.fingerprint import fingerprint, window
from diekae.inject.hookpoints import find_blocks
from diekae.models import DTYPES, load_decoder
from diekae.progress import Progress, silent
from diekae.training.config import TrainingConfig
from diekae_research.methods import Task
from diekae_research.methods.base import constants_of, without_knowledge
from diekae_research.provenance import key_of
from diekae_research.tables.cells import Cells, digest_prompts
from diekae_research.tables.plan import EVALUATIONS, QUESTION_SETS, Plan

UNTRAINED = ("bare", "prompted", "prompted_cached")
"""Methods that learn nothing."""
WITHOUT_BANK = ("lora", "sft", "cartridge")
"""Methods that learn without a bank: all they know of its configuration is how prompts are laid out."""
AT_ONCE = 4
"""Examples that a training step holds in memory together: gradients through a decoder take gigabytes at sixteen."""
CACHE_GB = 4.0
"""Differences that take more are collected anew in every epoch."""


class Parts(NamedTuple):
    """The prompts of one data set."""

    train: list[Prompt]
    """To learn from."""
    validation: list[Prompt]
    """To choose by; never reported."""
    test: list[Prompt]
    """To report."""


class Lab:
    """Where one plan is carried out."""

    def __init__(self, plan: Plan, out: str | Path, progress: Progress = silent, *, device: str = "cpu") -> None:
        """Load the decoder.

        Args:
            plan: What to measure.
            out: Folder for cells and, while a method is trained, its checkpoints.
            progress: Told what is being done and how far it is.
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
        """Why a data set takes no part, by name."""
        self.left_out: dict[str, dict[str, list[int]]] = {}
        """Examples left out as longer than the plan's ``longest``, and those they were among, by data set and part."""
        self._parts: dict[str, Parts | None] = {}

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """Return what every result depends on: the decoder, its type, where it runs, and how much at once."""
        return {
            "decoder": fingerprint(self.decoder),
            "dtype": str(self.decoder.dtype),
            "device": self.decoder.device.type,
            "seed": self.plan.seed,
            "batch_size": self.plan.batch_size,
        }

    @property
    def window(self) -> int:
        """Return the decoder's window in tokens."""
        return window(self.decoder)

    def present(self, names: Sequence[str]) -> list[str]:
        """Return the data sets that are at hand with all parts; why others are not goes into :attr:`missing`.

        Raises:
            DataError: None is.
        """
        names = self.plan.sets or names
        found = [name for name in names if self._load(name) is not None]
        if not found:
            reasons = "; ".join(f"{name}: {self.missing[name]}" for name in names)
            raise DataError(f"no data set is at hand for this table: {reasons}")
        return found

    def parts(self, name: str) -> Parts:
        """Return the prompts of a data set that is present."""
        found = self._load(name)
        assert found is not None, f"{name} is not present; ask for `present` first"
        return found

    def _load(self, name: str) -> Parts | None:
        if name not in self._parts:
            plan = self.plan
            try:
                train = self.load(name, "train", plan.train_examples)
                check, report = self._held_out(name)
                self._parts[name] = Parts(train, check[: plan.validation_examples], report[: plan.limit])
            except DataError as error:
                # Results are read on other machines, where this one's folders say nothing.
                self._parts[name], self.missing[name] = None, str(error).replace(str(plan.data), "DATA")
        return self._parts[name]

    def _held_out(self, name: str) -> tuple[list[Prompt], list[Prompt]]:
        """Return what chooses and what is reported: a set without a part for testing has its validation part halved."""
        try:
            report = self.load(name, "test", self.plan.limit)
        except DataError:
            return halves(self.load(name, "validation", None))
        return self.load(name, "validation", self.plan.validation_examples), report

    def load(self, name: str, split: str, limit: int | None) -> list[Prompt]:
        """Load one part of one data set.

        Raises:
            DataError: It is not at hand.
        """
        folder = str(self.plan.data / name)
        form = "qa" if name in QUESTION_SETS else None
        spec = DataSpec(name, folder, split=split, limit=limit, longest=self.plan.longest, format=form)
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # the builders' counts of bad records are `diekae-research data build`'s to tell
            chosen = choose_prompts(spec, self.plan.seed, self.prompter)
        self.left_out.setdefault(name, {})[split] = [chosen.left_out, chosen.left_out + len(chosen.prompts)]
        return self._fitting(name, chosen.prompts)

    def _fitting(self, name: str, prompts: Sequence[Prompt]) -> list[Prompt]:
        """Leave out prompts whose input and target alone pass the window, and cut K to it; either is warned of."""
        kept = [p for p in prompts if 2 * len(p.anchor) + len(p.input) + len(p.target) < self.window]
        if not kept:
            raise DataError(f"source {name!r}: no input and target fit the decoder's window of {self.window} tokens")
        if len(kept) < len(prompts):
            left = len(prompts) - len(kept)
            warnings.warn(f"source {name!r}: {left} examples do not fit the decoder's window", stacklevel=2)
        return truncate_knowledge(kept, None, self.window)

    def task(
        self,
        train: Sequence[Prompt],
        validation: Sequence[Prompt],
        *,
        config: DiekaeConfig | None = None,
        epochs: float | None = None,
        knowledge: bool = True,
    ) -> Task:
        """Return a task; methods that are given equal tasks share a folder, so that one's bank is another's beginning.

        Args:
            train: To learn from.
            validation: To choose checkpoints by.
            config: What a bank is; the plan's preset if None.
            epochs: Passes; the plan's if None.
            knowledge: Whether K is given.
        """
        config = config or self.config
        shown = list(train) if knowledge else without_knowledge(train)
        training = TrainingConfig(
            epochs=epochs or self.plan.epochs,
            batch_size=AT_ONCE,
            gradient_accumulation=max(1, min(self.plan.batch_size, len(train)) // AT_ONCE),
            evaluations=EVALUATIONS,
            precision=self.plan.dtype,
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
        folder = self.out / "work" / key_of(self.task_settings(task))
        if self._cached_gb(shown, config) <= CACHE_GB and training.epochs > 1 and config.rollout == "teacher":
            training = dataclasses.replace(training, cache=str(folder / "differences"))
        return dataclasses.replace(task, folder=folder, training=training)

    def _cached_gb(self, prompts: Sequence[Prompt], config: DiekaeConfig) -> float:
        """Return what the differences of all layers take on disk, in GB (bf16)."""
        width = int(self.decoder.config.get_text_config(decoder=True).hidden_size)
        layers = len(resolve_layers(config.layers, len(find_blocks(self.decoder))))
        return layers * width * 2 * sum(len(p.knowledge) + 2 * (len(p.input) + len(p.target)) for p in prompts) / 1e9

    def settings(self, method: str, task: Task) -> dict[str, Any]:
        """Return all that a method's figures depend on besides what is scored; training, if it is trained."""
        layout = {"anchor": task.diekae.anchor, "knowledge": task.knowledge}
        if method in UNTRAINED:
            return {**self.identity, **layout, "method": method}
        settings = self.task_settings(task)
        if method in WITHOUT_BANK:
            del settings["diekae"]
            settings |= layout
        return {**settings, "method": method, "constants": constants_of(method)}

    def task_settings(self, task: Task) -> dict[str, Any]:
        """Return all that fitting a method to a task depends on, as JSON values."""
        training = dataclasses.asdict(task.training)
        for name in ("cache", "cache_limit_gb"):  # where differences lie changes no figure
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
        """Remove checkpoints and collected differences: what was measured is in the cells."""
        shutil.rmtree(self.out / "work", ignore_errors=True)
