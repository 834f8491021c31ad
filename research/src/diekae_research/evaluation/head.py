"""The classification head of the paper's table 2: linear, on the final hidden state of the last token of x.

Every method gets a head, trained after the method itself on fixed states. (In the paper's published code the head of
its own method is not trained.)

Shapes: n examples, W decoder width, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from diekae.data.prompt import Prompt
from diekae.progress import Progress, silent
from diekae_research.methods import Fitted

DECAYS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Weight decays that are tried; validation chooses."""


@dataclass(frozen=True)
class Head:
    """A linear classifier on standardised states."""

    mean: Tensor
    """Of the training states, [W]."""
    deviation: Tensor
    """Of the training states, [W]."""
    weight: Tensor
    """[C, W]."""
    bias: Tensor
    """[C]."""

    def __call__(self, states: Tensor) -> Tensor:
        """Return the classes' logits for states [n, W], [n, C]."""
        return F.linear((states.to(self.mean) - self.mean) / self.deviation, self.weight, self.bias)


def collect_states(
    fitted: Fitted,
    prompts: Sequence[Prompt],
    batch_size: int = 16,
    progress: Progress = silent,
) -> Tensor:
    """Return the state that the head reads of each prompt, fp32 [n, W] on the CPU; targets are not read."""
    states = []
    for start in range(0, len(prompts), batch_size):
        states.append(fitted.last_states(prompts[start : start + batch_size]).float().cpu())
        progress(f"states of {fitted.name}", min(len(prompts), start + batch_size), len(prompts))
    return torch.cat(states)


def train_head(train: tuple[Tensor, Tensor], validation: tuple[Tensor, Tensor], classes: int) -> Head:
    """Fit a head by multinomial logistic regression, starting from zero.

    Args:
        train: States [n, W] and classes int64 [n].
        validation: The same; chooses the weight decay by accuracy, then by loss.
        classes: C.

    Raises:
        ValueError: There are no examples, or a class is not one of C.
    """
    for name, (states, labels) in {"train": train, "validation": validation}.items():
        if not len(states) or len(states) != len(labels):
            raise ValueError(f"{name}: {len(states)} states and {len(labels)} labels; expected as many, at least one.")
        if int(labels.min()) < 0 or int(labels.max()) >= classes:
            raise ValueError(f"{name}: labels go from {int(labels.min())} to {int(labels.max())}, classes={classes}.")
    heads = [_fit(*train, classes, decay) for decay in DECAYS]

    def quality(head: Head) -> tuple[float, float]:
        return accuracy(head, *validation), -float(F.cross_entropy(head(validation[0]), validation[1]))

    return max(heads, key=quality)


def accuracy(head: Head, states: Tensor, labels: Tensor) -> float:
    """Return the share of examples that the head classifies correctly."""
    return float((head(states).argmax(-1) == labels).double().mean())


def _fit(states: Tensor, labels: Tensor, classes: int, decay: float) -> Head:
    """Minimise the mean cross-entropy plus ``decay / 2`` times the squared weights, to convergence."""
    mean, deviation = states.mean(0), states.std(0, correction=0).clamp(min=1e-6)
    weight = torch.zeros(classes, states.shape[1], requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")
    standard = (states - mean) / deviation

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(F.linear(standard, weight, bias), labels) + decay / 2 * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return Head(mean, deviation, weight.detach(), bias.detach())
