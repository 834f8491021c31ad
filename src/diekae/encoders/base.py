"""The interface that every encoder keeps, and the registry that finds one by name.

An :class:`Encoder` holds *all* encoders of a bank, stacked along the first dimension of each parameter, so that
a bank runs as a few batched products instead of a Python loop. Encoders of different layers share no parameter.

Shapes: N encoders of the bank, n of them in one call, B rows, K knowledge tokens, S memory slots, T positions of x,
W decoder width, V embedding width, d encoder width.
"""

from __future__ import annotations

import dataclasses
import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from diekae.encoders.knowledge import KnowledgeBatch


class Encoded(NamedTuple):
    """What an encoder returns for x."""

    difference: Tensor
    """[n, B, T, W], in units of the bank's scale."""
    seen: KnowledgeBatch | None = None
    """What the n encoders keep of x so far, if they are causal over x; its position counts real tokens."""


class Encoder(nn.Module):
    """All encoders of a bank, stacked.

    A new encoder is one file: subclass (mostly :class:`DifferenceEncoder`), name the dataclass of its sizes, and
    decorate with :func:`register`.
    """

    reads: ClassVar[Literal["embeddings", "states", "attention"]]
    """``embeddings``: K and x as the decoder's token embeddings, all encoders in one call, before the decoder runs.
    ``states``: K and x as the decoder's stream at the hookpoint, each encoder at its own layer. ``attention``: K's keys
    and values, which the decoder's own attention of x reads."""
    options: ClassVar[type[Any]]
    """A frozen dataclass of sizes; every field has a default."""

    retired: ClassVar[tuple[str, ...]] = ()
    """Options that banks of older versions carry and that say nothing any more."""

    def __init__(self, count: int, embedding_width: int, width: int) -> None:
        """Keep the sizes that every encoder needs.

        Args:
            count: N, how many encoders.
            embedding_width: V, width of the decoder's token embeddings.
            width: W, width of the decoder's residual stream.
        """
        super().__init__()
        self.count, self.embedding_width, self.width = count, embedding_width, width

    @classmethod
    def make_options(cls, values: Mapping[str, Any]) -> Any:
        """Build the encoder's sizes from a mapping.

        Raises:
            ValueError: A key is unknown or a value impossible.
        """
        known = [f.name for f in dataclasses.fields(cls.options)]
        values = {key: value for key, value in values.items() if key not in cls.retired}
        for key in values:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise ValueError(f"encoder option {key!r} is not known; expected one of {', '.join(known)}.{hint}")
        return cls.options(**values)

    @classmethod
    def settle(cls, options: Any, traits: Mapping[str, Any]) -> Mapping[str, Any]:  # noqa: ARG003
        """Return options that differ for a decoder whose attention has these traits: those that follow its own."""
        return {}


class DifferenceEncoder(Encoder, ABC):
    """Encoders that compute the difference themselves, from what they keep of K and from x."""

    @abstractmethod
    def prepare(self, knowledge: Tensor, mask: Tensor, past: KnowledgeBatch | None = None) -> KnowledgeBatch:
        """Read knowledge, once a document and independent of x.

        Args:
            knowledge: Embeddings [1, B, K, V] or states [N, B, K, W], as :attr:`reads` says.
            mask: Which tokens are real, bool [B, K].
            past: PreparedKnowledge of the chunks of the same document that came before.

        Returns:
            The memory of this chunk and all before it.
        """

    @abstractmethod
    def forward(
        self,
        prepared: KnowledgeBatch,
        x: Tensor,
        mask: Tensor,
        which: slice = slice(None),
        seen: KnowledgeBatch | None = None,
    ) -> Encoded:
        """Return the difference that knowledge makes to x.

        Args:
            prepared: Of all N encoders.
            x: Embeddings [1, B, T, V] or states [n, B, T, W].
            mask: Which positions of x are real, bool [B, T].
            which: The n encoders that are asked.
            seen: What these n encoders kept of the positions of x before; None at its beginning.
        """


class GroupedLinear(nn.Module):
    """N independent linear maps without bias, one product for all of them."""

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
        """Map x [n or 1, …, in] to [n, …, out]; a leading 1 is one input shared by all encoders.

        Args:
            x: What is mapped.
            which: The n maps that are asked.
            gain: Factors of x's elements that are taken into the weights, [N, in]; see :meth:`GroupedRMSNorm.split`.
        """
        weight = self.weight[which] if gain is None else self.weight[which] * gain[which, None]
        kind = x.device.type
        if not (torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)):
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

    def __init__(self, count: int, width: int, eps: float = 1e-6) -> None:
        """Start from gain one."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(count, width))
        self.eps = eps

    def forward(self, x: Tensor, which: slice = slice(None)) -> Tensor:
        """Normalise x [n or 1, B, T, width] to [n, B, T, width]."""
        return (self.unit(x).float() * self.weight[which, None, None].float()).to(x.dtype)

    def split(self, x: Tensor, which: slice = slice(None)) -> tuple[Tensor, Tensor | None]:
        """Return what the maps behind this norm take: x normalised, and the gain that is left to them, or None.

        In training the gain is left to their weights: an x that needs no gradient then costs none, which is a good part
        of a step. Otherwise it is in x already, once for all maps.
        """
        return (self.unit(x), self.weight) if torch.is_grad_enabled() else (self(x, which), None)

    def unit(self, x: Tensor) -> Tensor:
        """Normalise x without the gain."""
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype)


def visible_columns(past: Tensor | None, mask: Tensor) -> Tensor:
    """Return which columns a causal encoder attends to from each new one: real ones up to it, and always itself.

    Args:
        past: Real columns before, bool [B, P].
        mask: Real new columns, bool [B, T].

    Returns:
        Bool [B, T, P + T].
    """
    length = mask.shape[1]
    own = torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()
    own = own & mask[:, None] | torch.eye(length, dtype=torch.bool, device=mask.device)
    return own if past is None else torch.cat([past[:, None].expand(-1, length, -1), own], dim=-1)


_ENCODERS: dict[str, type[Encoder]] = {}


def register(name: str) -> Callable[[type[Encoder]], type[Encoder]]:
    """Make an encoder known by name: a decorator for subclasses of :class:`Encoder`."""

    def add(cls: type[Encoder]) -> type[Encoder]:
        _ENCODERS[name] = cls
        return cls

    return add


def encoder_names() -> list[str]:
    """Return the names of the known encoders."""
    return sorted(_ENCODERS)


def encoder_class(name: str) -> type[Encoder]:
    """Find an encoder by name.

    Raises:
        ValueError: No encoder has that name.
    """
    if name not in _ENCODERS:
        near = difflib.get_close_matches(name, _ENCODERS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"encoder={name!r} is not known; choose one of {', '.join(encoder_names())}.{hint}")
    return _ENCODERS[name]
