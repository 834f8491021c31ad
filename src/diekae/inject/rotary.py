"""The decoder's rotary positions (RoPE): what can be read exactly with them, and rotating keys with them.

Shapes: B rows, S slots, G key heads, d dimensions of a key.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from diekae.inject.attention_interface import refusal
from diekae.inject.hookpoints import stack_of

if TYPE_CHECKING:
    from diekae.inject.attention import AttentionSite


def check_positions(decoder: PreTrainedModel) -> None:
    """Refuse rotary angles that depend on the length of the whole text.

    Raises:
        ValueError: The decoder scales its rotary positions dynamically.
    """
    if "dynamic" in _rope_types(decoder):
        raise ValueError(
            refusal(decoder, "its rotary positions are scaled dynamically, by the length of the whole text")
        )


def exact_length(decoder: PreTrainedModel) -> int | None:
    """Return the most tokens of K and x together that are read exactly; None where there is no limit.

    A decoder with ``longrope`` changes the angles of all tokens once a text passes the length of its first training.
    """
    if "longrope" not in _rope_types(decoder):
        return None
    config = decoder.config.get_text_config(decoder=True)
    parameters: Any = getattr(config, "rope_parameters", None) or {}
    length = parameters.get("original_max_position_embeddings") or getattr(
        config, "original_max_position_embeddings", None
    )
    return None if length is None else int(length)


def _rope_types(decoder: PreTrainedModel) -> set[str]:
    """Return the kinds of rotary positions that the decoder's layers use."""
    parameters: Any = getattr(decoder.config.get_text_config(decoder=True), "rope_parameters", None) or {}
    tables = [parameters, *(table for table in parameters.values() if isinstance(table, dict))]
    return {str(table["rope_type"]) for table in tables if "rope_type" in table}


class UnknownRotation(ValueError):
    """The decoder rotates its keys in a way that is not known here."""


class KeyRotation:
    """Rotates keys by the decoder's own angles and its own function: to given positions, or further by given steps."""

    def __init__(
        self, decoder: PreTrainedModel, sites: Mapping[int, AttentionSite], positions: Tensor, further: bool = False
    ) -> None:
        """Prepare to rotate keys.

        Args:
            decoder: The decoder.
            sites: The attention of each layer.
            positions: Positions that keys are rotated to, int [B, S]; with ``further``, steps from their positions.
            further: Whether the keys have been rotated before. Some decoders also scale keys when they rotate them;
                these keys are not scaled again.
        """
        self.decoder, self.sites, self.positions, self.further = decoder, sites, positions, further
        self._angles: dict[str | None, tuple[Tensor, ...]] = {}

    def __call__(self, layer: int, keys: Tensor) -> Tensor:
        """Rotate keys [B, S, G, d] of one layer; keys of a layer without positions are returned unchanged.

        Raises:
            UnknownRotation: The decoder has no rotary function that is known here.
        """
        if not self.sites[layer].rotary:
            return keys
        apply_rotary = getattr(sys.modules[type(self.sites[layer].module).__module__], "apply_rotary_pos_emb", None)
        angles = self._angles_of(layer, keys)
        if apply_rotary is None or len(angles) != 2:
            raise UnknownRotation(
                f"{type(self.decoder).__name__} rotates its keys in its own way, so a change of them cannot be "
                "trained; use encoder_options={'rank': 0}."
            )
        cos, sin = (angle.to(keys) for angle in angles)

        def rotate(part: Tensor) -> Tensor:
            heads = part.transpose(1, 2)
            result: Tensor = apply_rotary(heads, heads, cos, sin)[1].transpose(1, 2)
            return result

        try:
            return rotate(keys)  # some functions skip the dimensions that are not rotated
        except RuntimeError:
            size = cos.shape[-1]
            return torch.cat([rotate(keys[..., :size]), keys[..., size:]], dim=-1)

    def _angles_of(self, layer: int, keys: Tensor) -> tuple[Tensor, ...]:
        """Return cosine and sine for one layer, in the type and on the device of its keys; () if there are none."""
        rotary: Any = getattr(stack_of(self.decoder), "rotary_emb", None)
        if rotary is None:
            return ()
        layer_types = getattr(self.decoder.config.get_text_config(decoder=True), "layer_types", None)
        takes_type = "layer_type" in inspect.signature(rotary.forward).parameters
        layer_type = layer_types[layer] if layer_types and takes_type else None
        if layer_type not in self._angles:
            options = {} if layer_type is None else {"layer_type": layer_type}
            with torch.no_grad():
                angles = rotary(keys, self.positions.to(keys.device), **options)
                angles = angles if isinstance(angles, tuple) else (angles,)
                if self.further and len(angles) == 2:
                    scale = torch.hypot(*angles)
                    angles = tuple(angle / scale for angle in angles)
                self._angles[layer_type] = angles
        return self._angles[layer_type]
