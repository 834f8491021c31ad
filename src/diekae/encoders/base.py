"""The interface of all encoders, and the registry that finds one by name.

An :class:`Encoder` holds *all* encoders of a bank, stacked along the first dimension of each parameter, so that
a bank runs as a few batched products instead of a Python loop. Encoders of different layers share no parameter.

Shapes: N encoders of the bank, n of them in one call, B rows, K knowledge tokens, T positions of x, W decoder width,
V embedding width.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, NamedTuple

from torch import Tensor, nn

from diekae.encoders.knowledge import KnowledgeBatch
from diekae.fields import check_choice, check_table, check_types


class Encoded(NamedTuple):
    """What an encoder returns for x."""

    difference: Tensor
    """[n, B, T, W], in units of the bank's scale."""
    x_cache: KnowledgeBatch | None = None
    """What the n encoders keep of x so far, if they are causal over x; its ``token_count`` counts real tokens."""


class Encoder(nn.Module):
    """All encoders of a bank, stacked.

    A new encoder is one file: a subclass of :class:`DifferenceEncoder` decorated with :func:`register`, and the
    dataclass of its sizes::

        @register("mean")
        class Mean(DifferenceEncoder):
            reads = "states"
            options = MeanOptions
    """

    reads: ClassVar[Literal["embeddings", "states", "attention"]]
    """What the encoders read. ``embeddings``: the decoder's token embeddings of K and x; all encoders run in one call,
    before the decoder. ``states``: the decoder's stream of K and x at the hookpoint; each encoder runs in its own
    layer. ``attention``: the keys and values of K, which the decoder's own attention of x reads as slots."""
    options: ClassVar[type[Any]]
    """A frozen dataclass of sizes; every field has a default."""

    sizes: Any
    """The options of this encoder."""
    retired: ClassVar[tuple[str, ...]] = ()
    """Options of older versions that are ignored, so that their banks can still be loaded."""

    def __init__(self, count: int, embedding_width: int, width: int, options: Any) -> None:
        """Store N, V, W and the encoder's own sizes, of the type :attr:`options`."""
        super().__init__()
        self.count, self.embedding_width, self.width = count, embedding_width, width
        self.sizes = options

    @classmethod
    def make_options(cls, values: Mapping[str, Any]) -> Any:
        """Build the encoder's options from a mapping; ValueError if a key is unknown or a value impossible."""
        check_table(values, "encoder_options")
        names = [f.name for f in dataclasses.fields(cls.options)]
        values = {key: value for key, value in values.items() if key not in cls.retired}
        for key in values:
            check_choice(f"encoder option {key!r}", key, names)
        check_types(cls.options, values)
        return cls.options(**values)


class DifferenceEncoder(Encoder, ABC):
    """Encoders that compute the difference themselves, from prepared knowledge and x."""

    @abstractmethod
    def prepare(self, states: Tensor, mask: Tensor, previous: KnowledgeBatch | None = None) -> KnowledgeBatch:
        """Prepare knowledge, once for each document and independent of x.

        Args:
            states: What the encoders read of K, as :attr:`reads` says: embeddings [1, B, K, V] or states [N, B, K, W].
            mask: Which tokens are real, bool [B, K].
            previous: Prepared knowledge of the earlier chunks of the same documents.

        Returns:
            The prepared knowledge of this chunk and all earlier ones.
        """

    @abstractmethod
    def forward(
        self,
        knowledge: KnowledgeBatch,
        x: Tensor,
        mask: Tensor,
        which: slice = slice(None),
        x_cache: KnowledgeBatch | None = None,
    ) -> Encoded:
        """Return the difference that knowledge makes to x.

        Args:
            knowledge: Prepared by all N encoders.
            x: Embeddings [1, B, T, V] or states [n, B, T, W].
            mask: Which positions of x are real, bool [B, T].
            which: The n encoders to run.
            x_cache: What these n encoders kept of the earlier positions of x; None at its beginning.
        """


_ENCODERS: dict[str, type[Encoder]] = {}


def register(name: str) -> Callable[[type[Encoder]], type[Encoder]]:
    """Register a subclass of :class:`Encoder` under a name; used as a decorator."""

    def add(cls: type[Encoder]) -> type[Encoder]:
        _ENCODERS[name] = cls
        return cls

    return add


def encoder_names() -> list[str]:
    """Return the names of the registered encoders, sorted."""
    return sorted(_ENCODERS)


def encoder_class(name: str) -> type[Encoder]:
    """Find an encoder by name; ValueError if there is none of that name."""
    check_choice(f"encoder={name!r}", name, encoder_names())
    return _ENCODERS[name]
