"""The bank: all encoders of one decoder, with the statistics of their targets. It is trained, saved and shared.

Shapes: N encoders, B rows, K knowledge tokens, T positions of x, W decoder width, V embedding width.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from diekae.encoders.base import DifferenceEncoder, Encoded, encoder_class
from diekae.encoders.knowledge import KnowledgeBatch


class Bank(nn.Module):
    """N encoders, one for each layer of the bank, and the centre and scale of each layer's differences."""

    bias: Tensor
    """Centre of each layer's differences, [N, W]."""
    scale: Tensor
    """Scale of each layer's differences, [N]."""

    def __init__(
        self, encoder: str, options: Mapping[str, Any], layers: Sequence[int], embedding_width: int, width: int
    ) -> None:
        """Build the encoders of the given decoder layers, by the encoder's name and sizes and the widths V and W."""
        super().__init__()
        cls = encoder_class(encoder)
        self.layers = tuple(layers)
        self.encoder = cls(len(self.layers), embedding_width, width, cls.make_options(options))
        self.register_buffer("bias", torch.zeros(len(self.layers), width))
        self.register_buffer("scale", torch.ones(len(self.layers)))
        self.autocast: torch.dtype | None = None
        """Type in which the encoders compute while they are trained; the decoder's type stays its own."""
        self.decoder = ""
        """Fingerprint of the decoder whose states the encoders read."""
        self._fingerprint: tuple[tuple[Any, ...], bytes, str] | None = None

    def prepare(self, states: Tensor, mask: Tensor, previous: KnowledgeBatch | None = None) -> KnowledgeBatch:
        """Prepare knowledge; see :meth:`diekae.encoders.DifferenceEncoder.prepare`."""
        assert isinstance(self.encoder, DifferenceEncoder), "the decoder's attention reads slots, not the bank"
        with self._autocast():
            knowledge: KnowledgeBatch = self.encoder.prepare(states, mask, previous)
        return knowledge

    def encode(self, *arguments: Any) -> Encoded:
        """Return differences less the centre, in units of the scale; arguments as for :meth:`forward`."""
        with self._autocast():
            encoded: Encoded = self.encoder(*arguments)
        return encoded

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(self.bias.device.type, self.autocast)

    def forward(
        self,
        knowledge: KnowledgeBatch,
        x: Tensor,
        mask: Tensor,
        which: slice = slice(None),
        x_cache: KnowledgeBatch | None = None,
    ) -> Encoded:
        """Return differences in the decoder's units, [n, B, T, W]; see the encoder's ``forward``."""
        encoded = self.encode(knowledge, x, mask, which, x_cache)
        scale, bias = self.scale[which, None, None, None], self.bias[which, None, None]
        return Encoded(bias + scale * encoded.difference, encoded.x_cache)

    @property
    def dtype(self) -> torch.dtype:
        """Return the type of the encoders' parameters."""
        return self.bias.dtype

    def state_by_layer(self) -> dict[str, Tensor]:
        """Return every tensor unstacked, named by decoder layer: ``layers.5.up.weight``."""
        return {
            _name_in_layer(layer, name): tensor[number].detach().contiguous().clone()
            for name, tensor in self.state_dict().items()
            for number, layer in enumerate(self.layers)
        }

    def load_by_layer(self, tensors: Mapping[str, Tensor]) -> None:
        """Load what :meth:`state_by_layer` returned; ValueError if a tensor is missing, left over or misshapen."""
        current = self.state_dict()
        expected = {_name_in_layer(layer, name) for name in current for layer in self.layers}
        if expected != set(tensors):
            wrong = sorted(expected ^ set(tensors))
            raise ValueError(
                f"the tensors do not fit the bank's configuration: {len(wrong)} differ, first {wrong[0]!r}."
            )
        stacked = {}
        for name, tensor in current.items():
            parts = [tensors[_name_in_layer(layer, name)] for layer in self.layers]
            if any(part.shape != tensor.shape[1:] for part in parts):
                raise ValueError(f"{name!r} has shape {tuple(parts[0].shape)}, expected {tuple(tensor.shape[1:])}.")
            stacked[name] = torch.stack([part.to(tensor) for part in parts])
        self.load_state_dict(stacked)

    def fingerprint(self, *, look: bool = False) -> str:
        """Return a digest of all weights, stored with all prepared knowledge; recomputed after a weight has changed.

        Args:
            look: Also compare a sample of the weights, which takes 0.1 ms. PyTorch counts changes of a weight, but not
                those through ``.data``: only a sample shows them, if they change most weights.
        """
        tensors = self.state_dict().values()
        versions = tuple((0 if t.is_inference() else t._version, t.data_ptr()) for t in tensors)
        state = (self.decoder, str(self.dtype), versions)
        before = self._fingerprint
        sample = _sample(tensors) if look or before is None or before[0] != state else before[1]
        if before is None or before[:2] != (state, sample):
            digest = hashlib.sha256(f"{self.layers}{self.decoder}".encode())
            for name, tensor in sorted(self.state_dict().items()):
                digest.update(name.encode())
                digest.update(tensor.detach().to("cpu", torch.bfloat16).view(torch.int16).numpy().tobytes())
            self._fingerprint = before = state, sample, digest.hexdigest()[:16]
        return before[2]

    def goal(self, targets: Tensor) -> Tensor:
        """Return targets [N, B, T, W] less the centre, in units of the scale, as :meth:`encode` should return them."""
        return (targets.float() - self.bias[:, None, None]) / self.scale[:, None, None, None]

    @property
    def calibrated(self) -> bool:
        """Tell whether centre and scale have been measured."""
        return bool(self.bias.any()) or bool((self.scale != 1).any())

    @torch.no_grad()
    def calibrate(self, targets: Tensor, receives: Tensor) -> None:
        """Measure centre and scale of the targets [N, B, T, W] at the receiving positions [B, T].

        Where the decoder's attention reads slots, no constant is added to the difference, so the centre stays zero.
        """
        samples = targets.float()[:, receives]
        centre = samples.mean(1) if isinstance(self.encoder, DifferenceEncoder) else torch.zeros_like(self.bias)
        scale = (samples - centre[:, None]).square().mean((1, 2)).sqrt()
        self.bias.copy_(centre)
        self.scale.copy_(torch.where(scale > 0, scale, torch.ones_like(scale)))


@torch.no_grad()
def _sample(tensors: Iterable[Tensor]) -> bytes:
    """Return some 257 weights of each tensor, evenly spaced."""
    samples = [tensor.reshape(-1)[:: max(1, tensor.numel() // 257)].float() for tensor in tensors]
    return torch.cat(samples).cpu().numpy().tobytes()


def _name_in_layer(layer: int, name: str) -> str:
    """Return the name on disk of one layer's part of a stacked tensor."""
    return f"layers.{layer}.{name.removeprefix('encoder.')}"
