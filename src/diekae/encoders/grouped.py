"""Linear maps and norms of N encoders, stacked so that one product computes all of them.

Shapes: N encoders, n of them in one call, B rows, T positions.
"""

import torch
from torch import Tensor, nn

EPSILON = 1e-6
"""Added to the mean square in RMS norms."""


class GroupedLinear(nn.Module):
    """N independent linear maps without bias, computed by one product."""

    def __init__(self, count: int, features_in: int, features_out: int, std: float | None = None) -> None:
        """Start from N(0, std²), by default 1/√features_in; 0 starts at zero."""
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, features_out, features_in))
        std = features_in**-0.5 if std is None else std
        with torch.no_grad():
            # One draw per encoder, so that encoder i starts alike however many there are.
            for weight in self.weight:
                weight.normal_(0.0, std) if std > 0 else weight.zero_()

    def forward(self, x: Tensor, which: slice = slice(None), gain: Tensor | None = None) -> Tensor:
        """Map x [n or 1, …, in] to [n, …, out] by n of the maps; a leading 1 is one input shared by all encoders.

        ``gain`` [N, in] has factors of x's elements, multiplied into the weights; see :meth:`GroupedRMSNorm.split`.
        """
        weight = self.weight[which] if gain is None else self.weight[which] * gain[which, None]
        device = x.device.type
        if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
            weight = weight.to(x.dtype)
        flat = x.flatten(1, -2)
        if x.shape[0] == 1 and weight.shape[0] > 1:
            out = (flat[0] @ weight.flatten(0, 1).T).unflatten(-1, weight.shape[:2]).movedim(1, 0)
        else:
            out = torch.bmm(flat, weight.transpose(1, 2))
        shaped: Tensor = out.unflatten(1, x.shape[1:-1])
        return shaped


class GroupedRMSNorm(nn.Module):
    """N independent RMS norms (Zhang and Sennrich, 2019), computed in fp32."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(count, width))

    def forward(self, x: Tensor, which: slice = slice(None)) -> Tensor:
        """Normalise x [n or 1, B, T, width] to [n, B, T, width]."""
        return (self.unit(x).float() * self.weight[which, None, None].float()).to(x.dtype)

    def split(self, x: Tensor, which: slice = slice(None)) -> tuple[Tensor, Tensor | None]:
        """Return x normalised, and the gain if the linear maps that follow must still apply it; else None.

        In training they multiply the gain into their weights, so that no gradient is computed for a frozen x; this
        saves a good part of a step. Otherwise the gain is applied to x here, once for all maps.
        """
        return (self.unit(x), self.weight) if torch.is_grad_enabled() else (self(x, which), None)

    def unit(self, x: Tensor) -> Tensor:
        """Normalise x without the gain."""
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + EPSILON)).to(x.dtype)
