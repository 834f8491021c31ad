"""What the learned gate computes from a text: the decoder's states in early layers, pooled to one vector.

A few heads pool the states of each layer, each with its own attention over the tokens. The pooled states are projected
and normalised: [width]. The encoder is trained once for a decoder (:mod:`diekae_research.editing.gate_training`).

Shapes: L layers read, B texts, T tokens, W decoder width, H heads, d width of a head.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from diekae.data.prompt import Prompter
from diekae.inject.contexts import paused
from diekae.inject.hookpoints import find_hookpoints
from diekae.inject.hooks import run
from diekae.placement import input_device
from diekae.prepare import pad_right

MAX_TOKENS = 96
"""Tokens that are read of a text: the last ones, because the question is at the end."""


@dataclass(frozen=True)
class GateOptions:
    """Sizes of a learned gate, and the similarity at which it opens."""

    layers: tuple[int, ...] = (3, 9)
    """Decoder layers whose outputs are read."""
    heads: int = 3
    """H, heads of each layer."""
    head_width: int = 32
    """d, numbers of each head."""
    mentioned: float = 0.4
    """Smallest cosine similarity at which an edit applies whose subject occurs exactly."""
    nearly: float = 0.5
    """The same where the subject occurs nearly: misspelt, or with words left out."""

    @property
    def width(self) -> int:
        """Return the length of a vector, L·H·d."""
        return len(self.layers) * self.heads * self.head_width


class PromptEncoder(nn.Module):
    """Pools and projects the decoder's states."""

    def __init__(self, width: int, options: GateOptions) -> None:
        """Start with random weights for states of width W."""
        super().__init__()
        count = len(options.layers)
        self.query = nn.Parameter(torch.randn(count, options.heads, width) / width**0.5)
        self.project = nn.Parameter(torch.randn(count, options.heads, width, options.head_width) / width**0.5)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Pool states [L, B, T, W] of the tokens to read, bool [B, T]; return vectors of length 1, [B, L·H·d]."""
        x = states.float()
        x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)
        scores = torch.einsum("lbtw,lhw->lhbt", x, self.query.float()).masked_fill(~mask, -torch.inf)
        pooled = torch.einsum("lhbt,lbtw->lhbw", scores.softmax(-1), x)
        heads = torch.einsum("lhbw,lhwd->blhd", pooled, self.project.float())
        return nn.functional.normalize(heads.flatten(1), dim=1)


class StateReader:
    """Reads the decoder's states of texts. The decoder runs no further than the last layer that is read."""

    def __init__(self, decoder: PreTrainedModel, prompter: Prompter, layers: Sequence[int]) -> None:
        # Whatever format the bank has, so that a text has one vector.
        self.decoder, self.prompter, self.anchor = decoder, prompter, prompter.anchor("plain")
        self.hookpoints = find_hookpoints(decoder, tuple(layers), "block")

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return states [L, B, T, W], and which tokens belong to the text itself, bool [B, T]."""
        rows = [self.anchor + self.prompter.input(text.strip() or ".", "plain")[-MAX_TOKENS:] for text in texts]
        ids, mask = pad_right(rows, input_device(self.decoder))
        mask[:, : len(self.anchor)] = False
        states: list[Tensor] = []
        with paused():  # whoever listens to the call that asks the gate hears its own tokens alone
            run(self.decoder, ids, self.hookpoints, lambda _layer, stream, _output: states.append(stream))
        return torch.stack(states), mask
