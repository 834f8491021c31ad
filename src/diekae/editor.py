"""The interface between a model and its edits, which :mod:`diekae.edit` implements."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diekae.knowledge import PreparedKnowledge


class Call(NamedTuple):
    """One call of an edited model, as the edits change it."""

    knowledge: Sequence[PreparedKnowledge | None]
    """Knowledge to inject into each row: the caller's, and the edits'."""
    keep: Callable[[Any], Any] = lambda output: output
    """Called with the decoder's output, which it returns, to associate its cache with the selected edits."""


class Editor(ABC):
    """Edits of a model, which are asked in every forward and generation."""

    def to(self, device: torch.device) -> None:  # noqa: B027 - most editors have nothing on a device
        """Move to another device."""

    @abstractmethod
    def around(
        self,
        rows: Sequence[PreparedKnowledge | None],
        input_ids: Tensor,
        attention_mask: Tensor | None,
        cache: Any,
    ) -> AbstractContextManager[Call]:
        """Return the context of one call of the model, in which the edits add to the caller's knowledge.

        Args:
            rows: The caller's knowledge.
            input_ids: The prompt, or only its new columns if there is a cache; int64 [B, L].
            attention_mask: 0 at padding, [B, L] or over cached and new columns.
            cache: The decoder's cache if it is not empty, else None.
        """
