"""Ours: knowledge injected by a bank, trained on differences, on cross-entropy, or on both in turn."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diekae.data.batch import Batch
from diekae.data.prompt import Prompt
from diekae.model import DiekaeModel
from diekae.run.score import target_logits
from diekae.training.callbacks import seconds_of
from diekae.training.run import train
from diekae_research.methods.base import Cost, Fitted, Task
from diekae_research.methods.decoders import Plain, extend_greedily
from diekae_research.methods.tuning import ReportProgress, cost_of

FINETUNING_SHARE = 0.1
"""Fine-tuning's peak learning rate as a share of the bank's, unless the task names another."""


@dataclass(kw_only=True)
class Injected(Fitted):
    """A decoder that reads x, with K injected by a bank."""

    model: DiekaeModel
    """Decoder and bank."""

    def read(self, prompts: Sequence[Prompt], batch: Batch, states: bool) -> Tensor:  # noqa: ARG002
        """See :meth:`Fitted.read`."""
        return target_logits(self.model, prompts, "ours", states=states)

    def extend(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[list[int]]:
        """See :meth:`Fitted.extend`."""
        rows = [prompt.anchor + prompt.input for prompt in prompts]
        generate = functools.partial(self.model.generate, knowledge=self.model.prepare_prompts(prompts))
        return extend_greedily(self, rows, max_new_tokens, generate)


def as_methods(model: DiekaeModel) -> tuple[Fitted, ...]:
    """Return D(x), D(K, x) and a trained bank as methods."""
    tokenizer = model.need_prompter().tokenizer
    common: dict[str, Any] = {"decoder": model.decoder, "tokenizer": tokenizer, "anchor": model.config.anchor}
    return (
        Plain(name="bare", knowledge=False, **common),
        Plain(name="prompted", **common),
        Injected(name="ours", model=model, **common),
    )


def ours(task: Task) -> Fitted:
    """Train a bank on differences alone (paper, section 3.2)."""
    return _fit("ours", task, "difference")


def ours_finetuned(task: Task) -> Fitted:
    """Train a bank on differences, then on cross-entropy (paper, 3.3); the cost is that of both."""
    first = ours(task)
    assert isinstance(first, Injected)
    second = _fit("ours_finetuned", task, "cross_entropy", first.model)
    seconds, epochs = first.cost.seconds + second.cost.seconds, first.cost.epochs + second.cost.epochs
    second.cost = Cost(second.cost.parameters, seconds, epochs)
    return second


def ours_finetuned_from_scratch(task: Task) -> Fitted:
    """Train a bank on cross-entropy alone: the control of the paper's figure 3."""
    return _fit("ours_finetuned_from_scratch", task, "cross_entropy")


def _fit(name: str, task: Task, objective: str, model: DiekaeModel | None = None) -> Injected:
    """Train a bank, a new one unless a model is given."""
    torch.manual_seed(task.training.seed)
    model = model or DiekaeModel(task.decoder, task.diekae, task.tokenizer)
    share = FINETUNING_SHARE if name == "ours_finetuned" else 1.0
    can_cache = objective == "difference" and not model.attached.by_attention
    cache = task.training.cache if can_cache else None
    config = task.config(name, task.training.learning_rate * share, objective=objective, cache=cache)
    train(
        model,
        task.shown(task.train),
        task.shown(task.validation),
        config,
        task.place(name),
        resume=task.resume,
        progress=task.progress,
        callbacks=[ReportProgress(f"training {name}", task.progress)],
    )
    cost = cost_of(model.bank, seconds_of(task.place(name)), config, len(task.train))
    return Injected(name=name, model=model, cost=cost, **task.common())
