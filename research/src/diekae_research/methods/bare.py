"""D(x): the decoder with no knowledge."""

from __future__ import annotations

from diekae_research.methods.base import Fitted, Task, register
from diekae_research.methods.decoders import Plain


@register("bare")
def bare(task: Task) -> Fitted:
    """Return the decoder as it is; nothing is trained."""
    return Plain(
        name="bare", decoder=task.decoder, tokenizer=task.tokenizer, anchor=task.diekae.anchor, knowledge=False
    )
