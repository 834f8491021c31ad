"""Classifier-free guidance of an injected decoder: its second pass runs without knowledge."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import PreTrainedModel
from transformers.generation.logits_process import UnbatchedClassifierFreeGuidanceLogitsProcessor

from diekae.inject.injection import paused


class UnknowingGuidance(UnbatchedClassifierFreeGuidanceLogitsProcessor):
    """Transformers' guidance, whose unconditional pass is the bare decoder's."""

    def get_unconditional_logits(self, input_ids: Tensor) -> Tensor:
        """Run the second pass without what is injected into the first."""
        with paused():
            logits: Tensor = super().get_unconditional_logits(input_ids)  # type: ignore[no-untyped-call]
        return logits


def with_guidance(decoder: PreTrainedModel, options: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of ``generate`` with guidance, if they ask for any, as a processor of ours."""
    settings = options.get("generation_config") or decoder.generation_config
    scale = options.get("guidance_scale", getattr(settings, "guidance_scale", None))
    if scale is None or scale == 1:
        return options
    changed = {**options, "guidance_scale": 1.0}
    guidance = UnknowingGuidance(
        scale,
        decoder,
        unconditional_ids=changed.pop("negative_prompt_ids", None),
        unconditional_attention_mask=changed.pop("negative_prompt_attention_mask", None),
        use_cache=options.get("use_cache", True),
    )
    return {**changed, "logits_processor": [guidance, *options.get("logits_processor", ())]}
