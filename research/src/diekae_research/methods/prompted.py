"""D(x) and D(K, x): the decoder as it is, without knowledge and with K in the prompt."""

from __future__ import annotations

from diekae_research.methods.base import Fitted, Task, register
from diekae_research.methods.decoders import Plain


@register("bare")
def bare(task: Task) -> Fitted:
    """Return D(x)."""
    return Plain(name="bare", **{**task.common(), "knowledge": False})


@register("prompted")
def prompted(task: Task) -> Fitted:
    """Return D(K, x), which reads K for every input."""
    return Plain(name="prompted", **task.common())
