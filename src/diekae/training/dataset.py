"""Training data as prompts, which the decoder reads in every epoch, and their order."""

import hashlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch.utils.data import Dataset, Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

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
        return len(self.prompts)

    def __getitem__(self, index: int) -> Prompt:
        return self.prompts[index]

    def collate(self, prompts: Sequence[Prompt]) -> Batch:
        """Lay out a batch."""
        return collate(prompts, scope=self.scope, anchor=self.anchor)


class GroupedByLength(Sampler[int]):
    """Puts examples of similar length into one step, in a random order that is different in each epoch.

    A sampler that drew from the global generator would give a resumed run another order than an uninterrupted one.
    """

    def __init__(self, lengths: Sequence[int], step_size: int, seed: int, epoch: Callable[[], int]) -> None:
        """Take each example's length in tokens, the examples of a step, and what tells the present epoch, from 0."""
        self.lengths, self.step_size, self.seed, self.epoch = list(lengths), step_size, seed, epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        """Yield the numbers of all examples, in the order of the present epoch."""
        digest = hashlib.sha256(f"{self.seed} {self.epoch()}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))
        return iter(get_length_grouped_indices(self.lengths, self.step_size, generator=generator))
