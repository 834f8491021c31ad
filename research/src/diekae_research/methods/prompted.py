"""D(K, x): the decoder with the knowledge in its prompt, read anew for every input."""

from __future__ import annotations

from diekae_research.methods.base import Fitted, Task, register
from diekae_research.methods.decoders import Plain


@register("prompted")
def prompted(task: Task) -> Fitted:
    """Return the decoder as it is; nothing is trained."""
    return Plain(
        name="prompted",
        decoder=task.decoder,
        tokenizer=task.tokenizer,
        anchor=task.diekae.anchor,
        knowledge=task.knowledge,
    )
