"""What turns a document's memory into an edit's: a bank answers *from* knowledge, an edit must be answered *with* it.

Keys and values of the memory are changed at low rank, and a few learned slots are put behind them, which every edit
shares. The bank, the injection and the decoder stay what they are, nothing is trained for an edit, and the adapter is
small (some hundred kilobytes), for it is trained once for a bank: by cross-entropy of targets after prompts that state
the fact in other words, on facts that are none of those reported.

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
    """m, learned slots behind those of the edit."""
    copies: int = 4
    """c, times that the edit's slots stand in the memory: attention then weighs them by so much more."""


class EditAdapter(nn.Module):
    """Changes the tensors of memories, each [N, S, …]; before training it leaves them as they are but for its slots."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], options: AdapterOptions | None = None) -> None:
        """Build an adapter.

        Args:
            shapes: N and the dimensions of a slot of each tensor, by name: ``{"keys": (N, D), …}``.
            options: Sizes.
        """
        super().__init__()
        self.options, self.shapes = options or AdapterOptions(), {name: tuple(shape) for name, shape in shapes.items()}
        own = {}
        for name, (count, *dims) in self.shapes.items():
            width, rank = math.prod(dims), self.options.rank
            own[f"gain_{name}"] = torch.ones(count, width)
            own[f"down_{name}"] = torch.randn(count, width, rank) / width**0.5
            own[f"up_{name}"] = torch.zeros(count, rank, width)
            own[f"slots_{name}"] = 0.02 * torch.randn(count, self.options.slots, width)
        self.weights = nn.ParameterDict({name: nn.Parameter(tensor) for name, tensor in own.items()})

    @classmethod
    def for_model(cls, model: DiekaeModel, options: AdapterOptions | None = None) -> EditAdapter:
        """Build an adapter for the memories of a model's bank."""
        tensors = model.prepare("the").tensors
        shapes = {name: (tensor.shape[0], *tensor.shape[2:]) for name, tensor in tensors.items()}
        return cls(shapes, options).to(model.device)

    def forward(self, batch: KnowledgeBatch) -> KnowledgeBatch:
        """Change the memories of a batch, tensors [N, B, S, …] → [N, B, c·S + m, …]."""
        tensors = {name: self._change(name, tensor) for name, tensor in batch.tensors.items()}
        mask = batch.mask.repeat(1, self.options.copies)
        return replace(
            batch,
            tensors=tensors,
            mask=F.pad(mask, (0, self.options.slots), value=True),
            full=False,
            # The learned slots stand where x begins, in sight of every window.
            places=None if batch.places is None else self._places(batch.places),
            _kept={},
        )

    def _places(self, places: Tensor) -> Tensor:
        return F.pad(places.repeat(1, self.options.copies), (0, self.options.slots))

    def _change(self, name: str, tensor: Tensor) -> Tensor:
        flat = tensor.flatten(3)
        gain, down, up, slots = (self.weights[f"{kind}_{name}"].to(flat) for kind in ("gain", "down", "up", "slots"))
        changed = flat * gain[:, None, None] + torch.einsum("nbsd,ndr,nre->nbse", flat, down, up)
        changed = changed.repeat(1, 1, self.options.copies, 1)
        slots = slots[:, None].expand(-1, flat.shape[1], -1, -1)
        found: Tensor = torch.cat([changed, slots], dim=2).unflatten(3, tensor.shape[3:])
        return found

    @torch.no_grad()
    def adapt(self, prepared: PreparedKnowledge) -> PreparedKnowledge:
        """Change one prepared memory."""
        found = self(batch_knowledge([prepared]))
        places = None if found.places is None else found.places[0]
        return replace(prepared, tensors={name: t[:, 0] for name, t in found.tensors.items()}, places=places)
