"""What causal encoders have read of x, kept with the decoder's own cache."""

from __future__ import annotations

from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from diekae.encoders import KnowledgeBatch


class EncoderCacheLayer(DynamicLayer):
    """What causal encoders have read of x, kept as one more layer of the decoder's own cache.

    So beam search, cropping and repetition treat it as they treat the decoder's keys and values.
    """

    def __init__(self, prepared: KnowledgeBatch) -> None:
        """Hold what was read of x."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.prepared = prepared

    def get_seq_length(self) -> int:
        """Return the slots held."""
        return self.prepared.mask.shape[1]

    def _select(self, rows: Tensor) -> None:
        self.prepared = self.prepared.map(lambda tensor, dim: tensor.index_select(dim, rows.to(tensor.device)))

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Follow the beams that survive."""
        self._select(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows."""
        self._select(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row."""
        self.prepared = self.prepared.map(lambda tensor, dim: tensor.repeat_interleave(repeats, dim))

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last ``-tokens_to_remove`` columns of x."""
        if tokens_to_remove < 0:
            old, keep = self.prepared, self.prepared.mask.shape[1] + tokens_to_remove
            tensors = {name: tensor[:, :, :keep] for name, tensor in old.tensors.items()}
            self.prepared = KnowledgeBatch(tensors, old.mask[:, :keep], old.position - old.mask[:, keep:].sum(1))

    def reset(self) -> None:
        """Forget everything; the next forward begins anew."""
        self.prepared = self.prepared.map(lambda tensor, _dim: tensor[:0])


def encoder_layer(cache: Cache | None) -> EncoderCacheLayer | None:
    """Find the encoders' layer in a cache."""
    layers = getattr(cache, "layers", [])
    return layers[-1] if layers and isinstance(layers[-1], EncoderCacheLayer) else None
