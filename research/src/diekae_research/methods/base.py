"""The interface of the methods in the paper's tables: a :class:`Task` goes in, a :class:`Fitted` method comes out.

Shapes: B prompts, W decoder width; "labels" counts the target tokens of all prompts, row by row.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from diekae.config import DiekaeConfig
from diekae.data.batch import IGNORED, Batch, collate, to_device
from diekae.data.prompt import Prompt, truncate_knowledge
from diekae.fingerprint import window
from diekae.inject.hooks import frozen
from diekae.progress import Progress, silent
from diekae.training.config import TrainingConfig


@dataclass(frozen=True)
class Task:
    """What a method learns from, and how it is trained."""

    decoder: PreTrainedModel
    """The decoder; no method changes it."""
    tokenizer: PreTrainedTokenizerBase
    """The decoder's."""
    train: Sequence[Prompt]
    """Prompts to learn from."""
    validation: Sequence[Prompt]
    """Prompts that choose the checkpoint; never the reported ones."""
    folder: Path
    """Each method writes into a folder of its name below this one."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """Epochs, batch size, precision, seed, … of every method; its learning rates are the bank's."""
    learning_rates: Mapping[str, float] = field(default_factory=dict)
    """Peak learning rates by method; other methods take their own default."""
    diekae: DiekaeConfig = field(default_factory=DiekaeConfig)
    """The bank's configuration; its anchor lays out the prompts of all methods."""
    knowledge: bool = True
    """Whether K is given. Without it a method learns the targets alone, as edits."""
    resume: bool = False
    """Continue from the checkpoints in the folder, if there are any."""
    progress: Progress = silent
    """Called as training goes on."""

    def place(self, name: str) -> Path:
        """Return the folder of one method."""
        return Path(self.folder) / name

    def common(self) -> dict[str, Any]:
        """Return the fields of :class:`Fitted` that methods take from their task."""
        return {
            "decoder": self.decoder,
            "tokenizer": self.tokenizer,
            "anchor": self.diekae.anchor,
            "knowledge": self.knowledge,
        }

    def shown(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """Return prompts as a method may see them: K cut to the limit and the window, or left out."""
        visible = list(prompts) if self.knowledge else without_knowledge(prompts)
        return truncate_knowledge(visible, self.training.max_knowledge, window(self.decoder))

    def config(self, name: str, default_rate: float, **changes: Any) -> TrainingConfig:
        """Return the task's training configuration with its learning rates scaled to a method's peak.

        Args:
            name: The method.
            default_rate: Peak learning rate where the task names none.
            **changes: Other fields that differ.
        """
        config = self.training
        scale = self.learning_rates.get(name, default_rate) / config.learning_rate
        names = ("learning_rate", "start_learning_rate", "final_learning_rate")
        rates = {rate: getattr(config, rate) * scale for rate in names}
        return dataclasses.replace(config, **{**rates, **changes})


class Cost(NamedTuple):
    """What fitting cost."""

    parameters: int = 0
    """Parameters that were trained."""
    seconds: float = 0.0
    """Wall-clock seconds of training, with validations and checkpoints, over all calls of a resumed run."""
    epochs: float = 0.0
    """Passes over the training examples."""

    @property
    def epoch_seconds(self) -> float:
        """Return seconds an epoch; 0 where nothing was trained."""
        return self.seconds / self.epochs if self.epochs else 0.0

    def to_dict(self) -> dict[str, float]:
        """Return plain JSON values."""
        return {**self._asdict(), "epoch_seconds": self.epoch_seconds}


class Scored(NamedTuple):
    """Scores of the targets of some prompts."""

    logits: Tensor
    """Logits that predict the targets, [labels, vocabulary]."""
    labels: Tensor
    """Target tokens, [labels]; the same for every method."""


@dataclass(kw_only=True)
class Fitted(ABC):
    """A fitted method. All methods are scored on the same tokens."""

    name: str
    """The method's name."""
    decoder: PreTrainedModel
    """The decoder that runs: the task's, or a copy."""
    tokenizer: PreTrainedTokenizerBase
    """The decoder's."""
    anchor: str = "shared"
    """As :attr:`diekae.config.DiekaeConfig.anchor`."""
    knowledge: bool = True
    """Whether the method reads K."""
    cost: Cost = Cost()
    """What fitting cost."""

    @abstractmethod
    def read(self, prompts: Sequence[Prompt], batch: Batch, states: bool) -> Tensor:
        """Return the logits [labels, vocabulary] that predict the targets, or the final hidden states [labels, W].

        Args:
            prompts: B prompts, without K if the method does not read it.
            batch: The same, laid out on the decoder's device.
            states: Return hidden states instead of logits.
        """

    @abstractmethod
    def extend(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[list[int]]:
        """Return the tokens generated greedily behind each prompt; arguments as for :meth:`generate`."""

    @torch.no_grad()
    def target_logits(self, prompts: Sequence[Prompt]) -> Scored:
        """Score the targets of a batch.

        Raises:
            ValueError: There is no prompt.
        """
        visible = self._visible(prompts)
        batch = self._lay_out(visible)
        labels = batch["labels"][batch["labels"] != IGNORED]
        with frozen(self.decoder):
            return Scored(self.read(visible, batch, states=False), labels)

    @torch.no_grad()
    def last_states(self, prompts: Sequence[Prompt]) -> Tensor:
        """Return the final hidden state of each prompt's last token before the target, [B, W]."""
        visible = self._visible(prompts)
        visible = [dataclasses.replace(prompt, target=prompt.target[:1] or (0,)) for prompt in visible]
        with frozen(self.decoder):
            return self.read(visible, self._lay_out(visible), states=True)

    @torch.no_grad()
    def generate(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[str]:
        """Answer greedily.

        Args:
            prompts: B prompts; their targets are not read.
            max_new_tokens: Longest answer.

        Raises:
            ValueError: There is no prompt, or no token may be generated.
        """
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={max_new_tokens} must be at least 1.")
        with frozen(self.decoder):
            rows = self.extend(self._visible(prompts), max_new_tokens)
        return [str(self.tokenizer.decode(row, skip_special_tokens=True)).strip() for row in rows]

    def own_anchor(self, prompt: Prompt) -> tuple[int, ...]:
        """Return the anchor that stands between K and x: x's own with ``anchor="own"``, otherwise none."""
        return prompt.anchor if self.anchor == "own" and self.knowledge else ()

    def _visible(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        if not prompts:
            raise ValueError(f"method {self.name!r} was given no prompt; give at least one.")
        return list(prompts) if self.knowledge else without_knowledge(prompts)

    def _lay_out(self, prompts: Sequence[Prompt]) -> Batch:
        return to_device(collate(prompts, scope="all", anchor=self.anchor), self.decoder.device)


def without_knowledge(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Return the prompts with an empty K."""
    return [dataclasses.replace(prompt, knowledge=()) for prompt in prompts]
