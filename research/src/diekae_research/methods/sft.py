"""SFT: all weights trained on the targets with K in the prompt, the paper's second trained baseline."""

from __future__ import annotations

import copy

from diekae_research.methods.base import Fitted, Task
from diekae_research.methods.decoders import Plain
from diekae_research.methods.tuning import tune

RATE = 1e-5
"""Peak learning rate unless the task names another."""


def sft(task: Task) -> Fitted:
    """Train a copy of the decoder.

    The copy is trained in fp32, because bf16 loses AdamW's small steps. It then runs in the decoder's type.
    """
    decoder = copy.deepcopy(task.decoder).float().requires_grad_(True)
    cost = tune("sft", decoder, task, task.config("sft", RATE))
    decoder = decoder.requires_grad_(False).to(task.decoder.dtype)
    return Plain(name="sft", cost=cost, **{**task.common(), "decoder": decoder})
