"""4-bit weights of bitsandbytes, which CPUs with AVX512-BF16 pack for a kernel that has no backward.

The first forward without gradients packs them. Gradients then end there, without an error.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PreTrainedModel

_PACKS = "support_avx512bf16_for_cpu"
"""Attribute of bitsandbytes' ``Linear4bit``: whether it packs its weights."""


@contextmanager
def unpacked_weights(decoder: PreTrainedModel) -> Iterator[None]:
    """Keep the weights unpacked inside the block if gradients are enabled there, so that they pass through them."""
    modules = [module for module in decoder.modules() if torch.is_grad_enabled() and getattr(module, _PACKS, False)]
    try:
        for module in modules:
            setattr(module, _PACKS, False)
            _unpack(module)
        yield
    finally:
        for module in modules:
            setattr(module, _PACKS, True)


def _unpack(module: nn.Module) -> None:
    """Unpack the weights of one module, if they are packed."""
    module.state_dict()  # unpacks them, because files hold them unpacked
    state = getattr(module.weight, "quant_state", None)
    if state is not None and state.absmax.ndim == 2:  # bitsandbytes 0.50.2 leaves the scales in the kernel's order
        state.absmax = state.absmax.T.reshape(-1).float()
