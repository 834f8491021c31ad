"""Classifier-free guidance with injection: the unconditional pass runs without knowledge."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import PreTrainedModel
from transformers.generation.logits_process import UnbatchedClassifierFreeGuidanceLogitsProcessor

from diekae.inject.contexts import paused


class GuidanceWithoutKnowledge(UnbatchedClassifierFreeGuidanceLogitsProcessor):
    """Transformers' guidance, with the bare decoder in the unconditional pass."""

    def get_unconditional_logits(self, input_ids: Tensor) -> Tensor:
        """Run the unconditional pass without injection."""
        with paused():
            logits: Tensor = super().get_unconditional_logits(input_ids)  # type: ignore[no-untyped-call]
        return logits


def with_guidance(decoder: PreTrainedModel, options: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of ``generate`` with a logits processor in place of ``guidance_scale``, if they have one.

    Args:
        decoder: The decoder, whose generation settings may have a scale too.
        options: Keyword arguments of ``generate``.
    """
    settings = options.get("generation_config") or decoder.generation_config
    scale = options.get("guidance_scale", getattr(settings, "guidance_scale", None))
    if scale is None or scale == 1:
        return options
    changed = {**options, "guidance_scale": 1.0}
    guidance = GuidanceWithoutKnowledge(
        scale,
        decoder,
        unconditional_ids=changed.pop("negative_prompt_ids", None),
        unconditional_attention_mask=changed.pop("negative_prompt_attention_mask", None),
        use_cache=options.get("use_cache", True),
    )
    return {**changed, "logits_processor": [guidance, *options.get("logits_processor", ())]}
