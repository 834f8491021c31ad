"""What a reproduction measures: every choice of `diekae-research reproduce` in one place, checked before anything runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diekae.config import DiekaeConfig
from diekae.data.example import nearest
from diekae.models import settled_dtype
from diekae.training.config import PRECISIONS
from diekae_research.methods import method_names
from diekae_research.sources import source_card

EVALUATIONS = 8
"""Validations of a training run: the points of figure 3."""
QUESTION_SETS = ("dream", "natural_questions", "quasar_t", "zsre", "facts")
"""Sets whose targets are answers: they are asked in the format ``qa``, in which an answer ends, and what is generated
is compared with the target. Others keep the bank's format."""


@dataclass(frozen=True)
class Plan:
    """Sizes and choices of all tables; the defaults suit a 135M decoder, two slow cores and an hour for table 1."""

    data: Path
    """Folder with one folder a data set, each in its publisher's layout."""
    model: str = "smollm2"
    """Name or folder of the decoder."""
    train_examples: int = 200
    """Training examples of each data set; also the number of edits in table 3."""
    limit: int = 64
    """Examples of each data set that are scored."""
    epochs: float = 2.0
    """Passes over the training examples; table 3 makes at least the paper's five."""
    longest: int = 256
    """Examples whose knowledge has more tokens are left out, of training and of scoring."""
    context: int = 2048
    """Tokens of the longest context in table 4, cut to the decoder's window; the paper goes up to 2048."""
    methods: tuple[str, ...] = ()
    """Methods in place of a table's own, in order; D(x) and D(K, x) are always measured."""
    sets: tuple[str, ...] = ()
    """Data sets in place of a table's own, in order."""
    preset: str = "default"
    """What a bank is: ``default``, ``attention`` or ``paper``, as :meth:`diekae.config.DiekaeConfig.preset`."""
    template: str | None = None
    """Text around K for every method, D(K, x) among them; ``{knowledge}`` is replaced. None keeps the preset's."""
    learning_rates: Mapping[str, float] = field(default_factory=dict)
    """Peak learning rate of a method, by name; a method that is not named takes its own default."""
    dtype: str = "auto"
    """Type of the decoder's weights: ``bf16``, ``fp32``, or ``auto``: what is fast on the device, as
    :func:`diekae.models.fast_dtype` says."""
    seed: int = 0
    """Decides subsets, initial weights, order and resamples."""
    batch_size: int = 16
    """Examples a training step, a few at a time, and a scoring pass."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: A number is out of range, or a name is not known; the nearest known one is named.
        """
        for name, least in (("train_examples", 1), ("limit", 2), ("longest", 1), ("context", 1), ("batch_size", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}.")
        if self.epochs <= 0:
            raise ValueError(f"epochs={self.epochs} must be positive.")
        if not Path(self.data).is_dir():
            raise FileNotFoundError(
                f"no folder {str(self.data)!r}; expected one that holds a folder for each data set, such as dream/, as "
                "`diekae-research data download` fetches it."
            )
        known = method_names()
        for method in (*self.methods, *self.learning_rates):
            if method not in known:
                raise ValueError(f"unknown method {method!r}{nearest(method, known)}; there are {', '.join(known)}")
        for name, rate in self.learning_rates.items():
            if rate <= 0:
                raise ValueError(f"learning_rates[{name!r}]={rate} must be positive.")
        for name in self.sets:
            source_card(name)
        if self.dtype not in PRECISIONS:  # what is trained computes in the decoder's type
            near = nearest(self.dtype, PRECISIONS)
            raise ValueError(f"unknown dtype {self.dtype!r}{near}; there are {', '.join(PRECISIONS)}")
        assert self.config, "a wrong preset or template is said here"

    @property
    def config(self) -> DiekaeConfig:
        """Return what a bank is.

        Raises:
            ValueError: The preset is not known, or the template has no place for K.
        """
        return DiekaeConfig.preset(self.preset, **({} if self.template is None else {"template": self.template}))

    @property
    def validation_examples(self) -> int:
        """Return how many examples of each data set choose checkpoints: an eighth of the training examples, or 8."""
        return max(8, self.train_examples // 8)

    def on(self, device: str) -> Plan:
        """Return the plan with the type of the weights decided for a device."""
        return dataclasses.replace(self, dtype=settled_dtype(self.dtype, device))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, without the folders of one machine, which say nothing to a reader."""
        values = dataclasses.asdict(self)
        values["methods"], values["sets"] = list(self.methods), list(self.sets)
        del values["data"]
        values["model"] = Path(self.model).name
        return values
