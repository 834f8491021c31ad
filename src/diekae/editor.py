"""What an edited model asks before each of its calls; how edits are made, :mod:`diekae.edit` knows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diekae.knowledge import Knowledge


class Call(NamedTuple):
    """One call of an edited model."""

    knowledge: Knowledge
    """What is injected: what was given, and what edits add to it."""
    keep: Callable[[Any], Any] = lambda output: output
    """Takes the decoder's output and returns it, when its cache is to carry on what was decided."""


class Editor(ABC):
    """Edits of a model: asked at every forward and generation."""

    def to(self, device: torch.device) -> None:  # noqa: B027 - most keep nothing on a device
        """Follow the model to another device."""

    @abstractmethod
    def around(
        self, knowledge: Knowledge, input_ids: Tensor, attention_mask: Tensor | None, cache: Any
    ) -> AbstractContextManager[Call]:
        """Return the context that a call is made in.

        Args:
            knowledge: What was given to the call.
            input_ids: The prompt, or behind a cache its new columns, [B, L].
            attention_mask: 0 at padding, [B, L] or longer by what is cached.
            cache: ``past_key_values`` if it holds anything, else None.
        """
