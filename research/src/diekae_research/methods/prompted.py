"""D(x) and D(K, x): the decoder without knowledge, with K in the prompt, and with K's keys and values cached."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

import torch
from transformers import Cache, DynamicCache

from diekae.data.prompt import Prompt
from diekae.inject.hookpoints import stack_of
from diekae_research.methods.base import Fitted, Task
from diekae_research.methods.decoders import Plain, Prefixed

KEPT = 16
"""Documents whose keys and values are cached; the least recently used one goes first."""


@dataclass(kw_only=True)
class CachedPrompt(Prefixed):
    """A decoder that reads each K once."""

    caches: OrderedDict[tuple[int, ...], Cache] = field(default_factory=OrderedDict, repr=False)
    """Keys and values by the tokens of anchor and K."""

    def prefix(self, prompt: Prompt) -> Cache:
        """See :meth:`Prefixed.prefix`."""
        key = prompt.anchor + prompt.knowledge
        if key not in self.caches:
            cache = DynamicCache(config=self.decoder.config)
            ids = torch.tensor([key], device=self.decoder.device)
            stack_of(self.decoder)(input_ids=ids, cache=cache, use_cache=True)
            self.caches[key] = cache
            if len(self.caches) > KEPT:
                self.caches.popitem(last=False)
        self.caches.move_to_end(key)
        return self.caches[key]


def bare(task: Task) -> Fitted:
    """Return D(x)."""
    return Plain(name="bare", **{**task.common(), "knowledge": False})


def prompted(task: Task) -> Fitted:
    """Return D(K, x), which reads K for every input."""
    return Plain(name="prompted", **task.common())


def prompted_cached(task: Task) -> Fitted:
    """Return D(K, x) with the keys and values of K cached, as servers do: the same figures at another cost."""
    return CachedPrompt(name="prompted_cached", **task.common())
