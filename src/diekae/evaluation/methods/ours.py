"""Ours: knowledge injected by a bank that was trained on differences, on cross-entropy, or on one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diekae.data.prompt import Batch, Prompt, collate, pad_left, run_of, to_device
from diekae.evaluation.methods.base import Cost, Fitted, Task, register
from diekae.evaluation.methods.decoders import Plain, at_labels, greedy
from diekae.evaluation.methods.tuning import Watch
from diekae.inject.injection import Injection
from diekae.model import DiekaeModel
from diekae.training.objectives import batch_injection, batch_memory
from diekae.training.run import train

FINETUNING_SHARE = 0.1
"""Fine-tuning's peak learning rate as a share of the bank's, unless the task names another."""


@dataclass(kw_only=True)
class Injected(Fitted):
    """A decoder that reads x, with K injected by a bank."""

    model: DiekaeModel
    """Decoder and bank."""

    def read(self, prompts: Sequence[Prompt], batch: Batch, states: bool) -> Tensor:
        """See :meth:`Fitted.read`."""
        batch = self._scoped(prompts)
        ids, offset = run_of(batch, knowledge=False)
        with batch_injection(self.model, batch).active():
            return at_labels(self.decoder, ids, batch["labels"], offset, states)

    def extend(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[list[int]]:
        """See :meth:`Fitted.extend`."""
        rows = [prompt.anchor + prompt.input for prompt in prompts]
        ids, mask = pad_left(rows, self.tokenizer.pad_token_id, self.decoder.device)
        valid = mask.bool()
        place = valid.long().cumsum(1) - 1
        anchors = torch.tensor([[len(prompt.anchor)] for prompt in prompts], device=ids.device)
        receives = valid if self.anchor == "own" else valid & (place >= anchors)
        beyond = torch.full((len(prompts),), self.model.config.scope == "all", device=ids.device)
        memory = batch_memory(self.model, self._scoped(prompts))
        model = self.model
        with Injection(model.bank, model.decoder, model.points, memory, receives, valid, beyond).active():
            return greedy(self.decoder, ids, mask, max_new_tokens, self.tokenizer)

    def _scoped(self, prompts: Sequence[Prompt]) -> Batch:
        """Lay prompts out as the bank was trained."""
        return to_device(collate(prompts, scope=self.model.config.scope, anchor=self.anchor), self.decoder.device)


def as_methods(model: DiekaeModel) -> tuple[Fitted, ...]:
    """Return D(x), D(K, x) and a trained bank as methods that can be scored alike."""
    tokenizer = model.need_prompter().tokenizer
    shared: dict[str, Any] = {"decoder": model.decoder, "tokenizer": tokenizer, "anchor": model.config.anchor}
    return (
        Plain(name="bare", knowledge=False, **shared),
        Plain(name="prompted", **shared),
        Injected(name="ours", model=model, **shared),
    )


@register("ours")
def ours(task: Task) -> Fitted:
    """Train a bank on differences alone (paper, section 3.2)."""
    return _fit("ours", task, "difference")


@register("ours_finetuned")
def ours_finetuned(task: Task) -> Fitted:
    """Train a bank on differences, then on cross-entropy (paper, 3.3); the cost is that of both."""
    first = ours(task)
    assert isinstance(first, Injected)
    second = _fit("ours_finetuned", task, "cross_entropy", first.model)
    second.cost = Cost(
        second.cost.parameters, first.cost.seconds + second.cost.seconds, first.cost.epochs + second.cost.epochs
    )
    return second


@register("ours_finetuned_from_scratch")
def ours_finetuned_from_scratch(task: Task) -> Fitted:
    """Train a bank on cross-entropy alone: the control of the paper's figure 3."""
    return _fit("ours_finetuned_from_scratch", task, "cross_entropy")


def _fit(name: str, task: Task, objective: str, model: DiekaeModel | None = None) -> Injected:
    """Train a bank, a new one if none is given."""
    torch.manual_seed(task.training.seed)
    model = model or DiekaeModel(task.decoder, task.diekae, task.tokenizer)
    share = FINETUNING_SHARE if name == "ours_finetuned" else 1.0
    cache = task.training.cache if objective == "difference" else None
    config = task.config(name, task.training.learning_rate * share, objective=objective, cache=cache)
    watch = Watch(name, task.place(name), task)
    train(
        model,
        task.shown(task.train),
        task.shown(task.validation),
        config,
        task.place(name),
        resume=task.resume,
        progress=task.progress or (lambda _what, _done, _all: None),
        callbacks=[watch],
    )
    return Injected(
        name=name,
        decoder=task.decoder,
        tokenizer=task.tokenizer,
        anchor=task.diekae.anchor,
        knowledge=task.knowledge,
        cost=watch.cost(model.bank, config, len(task.train)),
        model=model,
    )
