"""The adapter: turns the prepared knowledge of an edit's statement into what is injected for the edit.

A bank answers *from* knowledge; an edit must be answered *with* it. The adapter changes the slots' keys and values at
low rank, repeats them, and adds a few learned slots that all edits share. The bank, the injection and the decoder do
not change, and nothing is trained for an edit. An adapter is trained once for a bank, by cross-entropy of targets after
prompts that state the fact in other words. It has some hundred kilobytes.

Shapes: N encoders, B rows, S slots, m learned slots, c copies, D width of a slot, r rank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diekae.encoders import KnowledgeBatch
from diekae.knowledge import PreparedKnowledge, batch_knowledge
from diekae.model import DiekaeModel


@dataclass(frozen=True)
class AdapterOptions:
    """Sizes of an adapter."""

    rank: int = 8
    """r, rank of the change of keys and values."""
    slots: int = 4
    """m, learned slots that follow those of the edit."""
    copies: int = 4
    """c, how often the edit's slots are repeated. Attention gives repeated slots more weight."""


class EditAdapter(nn.Module):
    """Changes prepared knowledge. An untrained adapter only repeats the slots and adds its own."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], options: AdapterOptions | None = None) -> None:
        """Build an adapter for tensors by name, each with N and the dimensions of a slot: ``{"keys": (N, D), …}``."""
        super().__init__()
        self.options, self.shapes = options or AdapterOptions(), {name: tuple(shape) for name, shape in shapes.items()}
        weights = {}
        for name, (count, *dims) in self.shapes.items():
            width, rank = math.prod(dims), self.options.rank
            weights[f"gain_{name}"] = torch.ones(count, width)
            weights[f"down_{name}"] = torch.randn(count, width, rank) / width**0.5
            weights[f"up_{name}"] = torch.zeros(count, rank, width)
            weights[f"slots_{name}"] = 0.02 * torch.randn(count, self.options.slots, width)
        self.weights = nn.ParameterDict({name: nn.Parameter(tensor) for name, tensor in weights.items()})

    @classmethod
    def for_model(cls, model: DiekaeModel, options: AdapterOptions | None = None) -> EditAdapter:
        """Build an adapter for what a model's bank prepares."""
        tensors = model.prepare("the").tensors
        shapes = {name: (tensor.shape[0], *tensor.shape[2:]) for name, tensor in tensors.items()}
        return cls(shapes, options).to(model.device)

    def forward(self, batch: KnowledgeBatch) -> KnowledgeBatch:
        """Change a batch of prepared knowledge, tensors [N, B, S, …] → [N, B, c·S + m, …]."""
        tensors = {name: self._change(name, tensor) for name, tensor in batch.tensors.items()}
        mask = batch.mask.repeat(1, self.options.copies)
        positions = batch.positions
        if positions is not None:
            # The learned slots get the position where x begins, which every sliding window sees.
            positions = F.pad(positions.repeat(1, self.options.copies), (0, self.options.slots))
        return replace(
            batch,
            tensors=tensors,
            mask=F.pad(mask, (0, self.options.slots), value=True),
            full=False,
            positions=positions,
            _kept={},
        )

    def _change(self, name: str, tensor: Tensor) -> Tensor:
        flat = tensor.flatten(3)
        gain, down, up, slots = (self.weights[f"{kind}_{name}"].to(flat) for kind in ("gain", "down", "up", "slots"))
        changed = flat * gain[:, None, None] + torch.einsum("nbsd,ndr,nre->nbse", flat, down, up)
        changed = changed.repeat(1, 1, self.options.copies, 1)
        slots = slots[:, None].expand(-1, flat.shape[1], -1, -1)
        whole: Tensor = torch.cat([changed, slots], dim=2).unflatten(3, tensor.shape[3:])
        return whole

    @torch.no_grad()
    def adapt(self, prepared: PreparedKnowledge) -> PreparedKnowledge:
        """Change the prepared knowledge of one document."""
        batch = self(batch_knowledge([prepared]))
        positions = None if batch.positions is None else batch.positions[0]
        return replace(
            prepared, tensors={name: tensor[:, 0] for name, tensor in batch.tensors.items()}, positions=positions
        )
