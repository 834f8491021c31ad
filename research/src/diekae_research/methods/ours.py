"""Ours: knowledge injected by a bank that was trained on differences, on cross-entropy, or on one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diekae.data.prompt import Batch, Prompt, pad_left
from diekae.model import DiekaeModel
from diekae.run.answer import greedy_options, until_end
from diekae.run.score import target_logits
from diekae.training.run import train
from diekae_research.methods.base import Cost, Fitted, Task, register
from diekae_research.methods.decoders import Plain
from diekae_research.methods.tuning import Watch

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
        ids, mask = pad_left(rows, self.tokenizer.pad_token_id, self.decoder.device)
        all_prepared = self.model.prepare_prompts(prompts)
        options = greedy_options(max_new_tokens, self.tokenizer)
        made = self.model.generate(ids, attention_mask=mask, knowledge=all_prepared, **options)
        return until_end(made[:, ids.shape[1] :], self.decoder)


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
    keeps = objective == "difference" and not model.attached.by_attention
    cache = task.training.cache if keeps else None
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
