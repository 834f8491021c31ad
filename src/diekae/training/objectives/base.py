"""What all objectives share: the bank as their only parameters, and losses as sums, so that parts of a batch add up.

Shapes: N encoders, B rows, T columns of x, W decoder width.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from diekae.data.batch import Batch
from diekae.model import DiekaeModel


class LossSums(NamedTuple):
    """Sums over one batch. Divide by ``positions`` only after adding up batches and processes."""

    loss: Tensor
    """The loss, summed over counted positions; it has the graph."""
    positions: Tensor
    """Number of counted positions."""
    parts: Tensor
    """For the unexplained share of each layer, see :func:`unexplained`: [N, 2 + W]; zeros if it is not measured."""


def parts_of(errors: Tensor, goal: Tensor) -> Tensor:
    """Return a batch's contribution to the unexplained share, [N, 2 + W].

    It is made of squared errors, mean over dimensions, summed over positions, [N], and of the targets [N, positions,
    W].
    """
    wide = goal.double()
    squares, sums = wide.square().mean(-1).sum(1), wide.sum(1) / wide.shape[-1] ** 0.5
    return torch.cat([errors.double()[:, None], squares[:, None], sums], dim=1).detach()


def unexplained(parts: Tensor, positions: float) -> Tensor | None:
    """Return the share of the targets' variance that each layer does not explain, [N].

    The parts [N, 2 + W] are summed over batches and processes. The variance is about the targets' own mean, whatever
    centre the bank adds. Return None if it is undefined: without targets, or with only one.
    """
    if not parts.numel() or positions < 2 or not bool(parts[:, 1].any()):
        return None
    variance = parts[:, 1] - parts[:, 2:].square().sum(1) / positions
    return parts[:, 0] / variance.clamp(min=1e-12)


class Objective(nn.Module):
    """A bank in training. The trainer wraps this module, so ``forward(batch)`` works in several processes too."""

    def __init__(self, model: DiekaeModel) -> None:
        super().__init__()
        self.bank = model.bank
        self._outside = {"model": model}  # nn.Module does not look into a dict

    @property
    def model(self) -> DiekaeModel:
        """Return the model, which is not part of this module's state."""
        return self._outside["model"]

    @property
    def layers(self) -> tuple[int, ...]:
        """Return the decoder layers whose encoders are reported separately."""
        return self.bank.layers

    def count(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the number of counted positions of a batch."""
        raise NotImplementedError

    def keep(self, batch: Batch) -> dict[str, Tensor]:
        """Return what the frozen decoder computes for a batch, padded like the batch; ``forward`` takes it instead.

        The names are those of :class:`Differences` and :class:`Batch`, and ``teacher``: logits of D(K, x),
        [labels, vocabulary].
        """
        raise NotImplementedError

    def _no_parts(self) -> Tensor:
        count, width = self.bank.bias.shape
        return torch.zeros(count, 2 + width, dtype=torch.float64, device=self.bank.bias.device)
