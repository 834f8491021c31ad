"""Training data as prompts, which the decoder reads in every epoch."""

from __future__ import annotations

from collections.abc import Sequence

from torch.utils.data import Dataset

from diekae.data.batch import Batch, collate
from diekae.data.prompt import Prompt


class PromptDataset(Dataset[Prompt]):
    """Prompts, and how a batch of them is laid out."""

    def __init__(self, prompts: Sequence[Prompt], *, scope: str, anchor: str) -> None:
        """Take the prompts; ``scope`` and ``anchor`` as in :class:`DiekaeConfig`."""
        self.prompts, self.scope, self.anchor = prompts, scope, anchor
        # Tokens of both runs.
        self.lengths = [len(p.knowledge) + 2 * (len(p.input) + len(p.target)) for p in prompts]

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.prompts)

    def __getitem__(self, index: int) -> Prompt:
        """Return one prompt."""
        return self.prompts[index]

    def collate(self, prompts: Sequence[Prompt]) -> Batch:
        """Lay out a batch."""
        return collate(prompts, scope=self.scope, anchor=self.anchor)
