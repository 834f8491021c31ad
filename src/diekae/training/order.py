"""The order of the training examples: a function of seed and epoch alone, so that a resumed run continues it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices


class GroupedByLength(Sampler[int]):
    """Puts examples of similar length into one step, in a random order that is different in each epoch.

    A sampler that drew from the global generator would give a resumed run another order than an uninterrupted one.
    """

    def __init__(self, lengths: Sequence[int], step_size: int, seed: int, epoch: Callable[[], int]) -> None:
        """Take what the order depends on.

        Args:
            lengths: Length of each example, in tokens.
            step_size: Examples of one optimizer step, over accumulation and processes.
            seed: Seed of the run.
            epoch: Returns the number of the present epoch, from 0.
        """
        self.lengths, self.step_size, self.seed, self.epoch = list(lengths), step_size, seed, epoch

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        """Yield the numbers of all examples, in the order of the present epoch."""
        digest = hashlib.sha256(f"{self.seed} {self.epoch()}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))
        return iter(get_length_grouped_indices(self.lengths, self.step_size, generator=generator))
