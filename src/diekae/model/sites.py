"""The attention of a decoder's layers that read K."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from transformers import PreTrainedModel

from diekae.inject.attention import AttentionSite, find_attention
from diekae.inject.exactness import check_exact
from diekae.inject.rotary import check_positions


def sites_of_layers(decoder: PreTrainedModel, layers: Sequence[int]) -> dict[int, AttentionSite]:
    """Return the attention of some layers.

    Raises:
        ValueError: The decoder's attention cannot read K exactly; the message says why.
    """
    check_positions(decoder)
    sites = check_exact(decoder, find_attention(decoder))
    return {layer: sites[layer] for layer in layers}


def sizes_of_attention(sites: Iterable[AttentionSite]) -> dict[str, int]:
    """Return the sizes of the attention of some layers, as :meth:`diekae.config.DiekaeConfig.resolve_sizes` takes them.

    Raises:
        ValueError: The sizes differ between layers.
    """
    shapes = {(site.heads, site.key_shape, site.value_shape) for site in sites}
    if len(shapes) != 1:
        raise ValueError(
            f"encoder='attention' needs layers whose attention is alike, and these have {sorted(shapes)} (heads, keys, "
            "values); choose layers of one kind, or use encoder='reader'."
        )
    heads, (groups, key_size), (_, value_size) = shapes.pop()
    return {"heads": heads, "kv_heads": groups, "key_size": key_size, "value_size": value_size}
