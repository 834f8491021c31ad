"""What a reproduction measures: all choices of `diekae-research reproduce`, checked before anything runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diekae.config import DiekaeConfig
from diekae.fields import check_choice
from diekae.models import resolve_dtype
from diekae.training.config import PRECISIONS
from diekae_research.methods import METHODS
from diekae_research.sources import source_card

EVALUATIONS = 8
"""Validations of a training run: the points of figure 3."""
QUESTION_SETS = ("dream", "natural_questions", "quasar_t", "zsre", "facts")
"""Data sets whose targets are answers. They use the format ``qa``, in which an answer ends with its line, and generated
answers are compared with the targets. All other sets use the bank's format."""
_LEAST = {"train_examples": 1, "limit": 2, "longest": 1, "context": 1, "batch_size": 1}


@dataclass(frozen=True)
class Plan:
    """Sizes and choices of all tables. The defaults suit a 135M decoder, two slow cores and an hour for table 1."""

    data: Path
    """Folder with a folder for each data set, as its publisher lays it out."""
    model: str = "smollm2"
    """Name or folder of the decoder."""
    train_examples: int = 200
    """Training examples of each data set; also the number of edits in table 3."""
    limit: int = 64
    """Examples of each data set that are scored."""
    epochs: float = 2.0
    """Passes over the training examples; table 3 makes at least the paper's five."""
    longest: int = 256
    """Longest knowledge in tokens; longer examples are left out of training and scoring."""
    context: int = 2048
    """Longest context of table 4 in tokens, cut to the decoder's window; the paper's longest is 2048."""
    methods: tuple[str, ...] = ()
    """Methods in place of a table's own, in order; D(x) and D(K, x) are always measured."""
    sets: tuple[str, ...] = ()
    """Data sets in place of a table's own, in order."""
    preset: str = "default"
    """Preset of the bank: ``default``, ``attention`` or ``paper``, as :meth:`diekae.config.DiekaeConfig.preset`."""
    template: str | None = None
    """Text around K for every method, D(K, x) included; ``{knowledge}`` is replaced. None is the preset's."""
    learning_rates: Mapping[str, float] = field(default_factory=dict)
    """Peak learning rates by method; other methods use their own default."""
    dtype: str = "auto"
    """Type of the decoder's weights: ``bf16``, ``fp32``, or ``auto``: the type that is fast on the device, see
    :func:`diekae.models.fast_dtype`."""
    seed: int = 0
    """Seed of subsets, initial weights, order and resamples."""
    batch_size: int = 16
    """Examples of a training step, which sees a few at a time, and of a scoring pass."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: A number is out of range, or a name is unknown; the error suggests the nearest known name.
            FileNotFoundError: The data folder does not exist.
        """
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}.")
        if self.epochs <= 0:
            raise ValueError(f"epochs={self.epochs} must be positive.")
        if not Path(self.data).is_dir():
            raise FileNotFoundError(
                f"no folder {str(self.data)!r}; expected one that holds a folder for each data set, such as dream/, as "
                "`diekae-research data download` fetches it."
            )
        for method in (*self.methods, *self.learning_rates):
            check_choice(f"method {method!r}", method, METHODS)
        for method, rate in self.learning_rates.items():
            if rate <= 0:
                raise ValueError(f"learning_rates[{method!r}]={rate} must be positive.")
        for name in self.sets:
            source_card(name)
        check_choice(f"dtype={self.dtype!r}", self.dtype, PRECISIONS)  # what is trained computes in the decoder's type
        assert self.config, "building the configuration checks preset and template"

    @property
    def config(self) -> DiekaeConfig:
        """Return the configuration of the bank.

        Raises:
            ValueError: The preset is unknown, or the template lacks ``{knowledge}``.
        """
        return DiekaeConfig.preset(self.preset, **({} if self.template is None else {"template": self.template}))

    @property
    def validation_examples(self) -> int:
        """Return the number of examples of each data set that choose checkpoints."""
        return max(8, self.train_examples // 8)

    def on(self, device: str) -> Plan:
        """Return the plan with ``dtype`` decided for a device."""
        return dataclasses.replace(self, dtype=resolve_dtype(self.dtype, device))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values without this machine's folders."""
        values = dataclasses.asdict(self)
        values["methods"], values["sets"] = list(self.methods), list(self.sets)
        del values["data"]
        values["model"] = Path(self.model).name
        return values
