"""The bank: all encoders of one decoder with the statistics of their targets. It is what is trained and shared.

Shapes: N encoders, B rows, K knowledge tokens, T positions of x, W decoder width, V embedding width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from diekae.encoders.base import DifferenceEncoder, Encoded, encoder_class
from diekae.encoders.knowledge import KnowledgeBatch


class Bank(nn.Module):
    """N encoders, one a layer, and the centre and scale of each layer's differences."""

    bias: Tensor
    scale: Tensor

    def __init__(
        self, encoder: str, options: Mapping[str, Any], layers: Sequence[int], embedding_width: int, width: int
    ) -> None:
        """Build the encoders of the given layers.

        Args:
            encoder: Name of the encoder.
            options: Its sizes.
            layers: Decoder layers, in order.
            embedding_width: V.
            width: W.
        """
        super().__init__()
        kind = encoder_class(encoder)
        self.layers = tuple(layers)
        self.encoder = kind(len(self.layers), embedding_width, width, kind.make_options(options))  # type: ignore[call-arg]
        self.register_buffer("bias", torch.zeros(len(self.layers), width))
        self.register_buffer("scale", torch.ones(len(self.layers)))
        self.autocast: torch.dtype | None = None
        """Type that the encoders compute in while they are trained; the decoder keeps its own."""
        self.decoder = ""
        """Fingerprint of the decoder whose states are read: with trained weights or without, slots are its own."""
        self._fingerprint: tuple[tuple[Any, ...], str] | None = None

    def prepare(self, knowledge: Tensor, mask: Tensor, past: KnowledgeBatch | None = None) -> KnowledgeBatch:
        """Read knowledge; see :meth:`diekae.encoders.DifferenceEncoder.prepare`."""
        assert isinstance(self.encoder, DifferenceEncoder), "the decoder's attention reads slots, not the bank"
        with self._autocast():
            prepared: KnowledgeBatch = self.encoder.prepare(knowledge, mask, past)
        return prepared

    def encode(
        self,
        prepared: KnowledgeBatch,
        x: Tensor,
        mask: Tensor,
        which: slice = slice(None),
        seen: KnowledgeBatch | None = None,
    ) -> Encoded:
        """Return differences in units of the scale, less the centre; see the encoder's ``forward``."""
        with self._autocast():
            encoded: Encoded = self.encoder(prepared, x, mask, which, seen)
        return encoded

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(self.bias.device.type, self.autocast)

    def forward(
        self,
        prepared: KnowledgeBatch,
        x: Tensor,
        mask: Tensor,
        which: slice = slice(None),
        seen: KnowledgeBatch | None = None,
    ) -> Encoded:
        """Return differences in the decoder's units, [n, B, T, W], and what is kept of x; see the encoder's."""
        encoded = self.encode(prepared, x, mask, which, seen)
        scale, bias = self.scale[which, None, None, None], self.bias[which, None, None]
        return Encoded(bias + scale * encoded.difference, encoded.seen)

    @property
    def dtype(self) -> torch.dtype:
        """Return the type of the encoders' parameters."""
        return self.bias.dtype

    def state_by_layer(self) -> dict[str, Tensor]:
        """Return every tensor unstacked, named by decoder layer: ``layers.5.up.weight``."""
        return {
            f"layers.{layer}.{name.removeprefix('encoder.')}": tensor[number].detach().contiguous().clone()
            for name, tensor in self.state_dict().items()
            for number, layer in enumerate(self.layers)
        }

    def load_by_layer(self, tensors: Mapping[str, Tensor]) -> None:
        """Load what :meth:`state_by_layer` returned.

        Raises:
            ValueError: A tensor is missing, superfluous or of another shape.
        """
        own = self.state_dict()
        expected = {f"layers.{n}.{name.removeprefix('encoder.')}" for name in own for n in self.layers}
        if expected != set(tensors):
            wrong = sorted(expected ^ set(tensors))
            raise ValueError(
                f"the tensors do not fit the bank's configuration: {len(wrong)} differ, first {wrong[0]!r}."
            )
        stacked = {}
        for name, tensor in own.items():
            parts = [tensors[f"layers.{n}.{name.removeprefix('encoder.')}"] for n in self.layers]
            if any(part.shape != tensor.shape[1:] for part in parts):
                raise ValueError(f"{name!r} has shape {tuple(parts[0].shape)}, expected {tuple(tensor.shape[1:])}.")
            stacked[name] = torch.stack([part.to(tensor) for part in parts])
        self.load_state_dict(stacked)

    def fingerprint(self) -> str:
        """Return a digest of all weights, which memory prepared by this bank carries; kept until a weight changes."""
        versions = (self.decoder, *(tensor._version for tensor in self.state_dict().values()))
        if self._fingerprint is None or self._fingerprint[0] != versions:
            digest = hashlib.sha256(f"{self.layers}{self.decoder}".encode())
            for name, tensor in sorted(self.state_dict().items()):
                digest.update(name.encode())
                digest.update(tensor.detach().to("cpu", torch.bfloat16).view(torch.int16).numpy().tobytes())
            self._fingerprint = versions, digest.hexdigest()[:16]
        return self._fingerprint[1]

    def goal(self, targets: Tensor) -> Tensor:
        """Return targets [N, B, T, W] in units of the bank's scale, as its encoders see them."""
        return (targets.float() - self.bias[:, None, None]) / self.scale[:, None, None, None]

    @property
    def calibrated(self) -> bool:
        """Tell whether centre and scale have been measured."""
        return bool(self.bias.any()) or bool((self.scale != 1).any())

    @torch.no_grad()
    def calibrate(self, targets: Tensor, receives: Tensor) -> None:
        """Measure centre and scale of the targets [N, B, T, W] at the receiving positions [B, T].

        Where the decoder's attention reads slots nothing is added in all rows alike, so the centre stays zero.
        """
        kept = targets.float()[:, receives]
        centre = kept.mean(1) if isinstance(self.encoder, DifferenceEncoder) else torch.zeros_like(self.bias)
        scale = (kept - centre[:, None]).square().mean((1, 2)).sqrt()
        self.bias.copy_(centre)
        self.scale.copy_(torch.where(scale > 0, scale, torch.ones_like(scale)))
