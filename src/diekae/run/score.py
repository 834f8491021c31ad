"""Scoring: the logits that predict targets, in every way that a decoder can know K, and their losses.

Shapes: B rows, T columns of x, W decoder width; "labels" counts the target tokens of all rows, row by row.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Cache, PreTrainedModel

from diekae.data.prompt import IGNORED, Batch, Prompt, collate, run_of, to_device
from diekae.inject.hookpoints import stack_of
from diekae.knowledge import PreparedKnowledge
from diekae.model import DiekaeModel

Way = Literal["bare", "prompted", "ours"]
"""How a decoder knows K: not at all, D(x); in its prompt, D(K, x); or injected, as `DiekaeModel.forward` does it."""
Progress = Callable[[int, int], None]
"""Told how many examples are done, and of how many."""


class Losses(NamedTuple):
    """Negative log-likelihood of targets, summed over each example's tokens."""

    total: Tensor
    """Nats, fp64 [examples]."""
    tokens: Tensor
    """Target tokens, int64 [examples]."""

    @property
    def mean(self) -> float:
        """Return nats a token, every token counting alike."""
        return float(self.total.sum() / self.tokens.sum())


def lay_out(model: DiekaeModel, prompts: Sequence[Prompt], scope: str | None = None) -> Batch:
    """Lay a batch out as the bank was trained, on the model's device."""
    return to_device(collate(prompts, scope=scope or model.config.scope, anchor=model.config.anchor), model.device)


def target_logits(
    model: DiekaeModel,
    prompts: Sequence[Prompt],
    way: Way,
    *,
    all_prepared: Sequence[PreparedKnowledge | None] | None = None,
    scope: str | None = None,
    states: bool = False,
) -> Tensor:
    """Return the logits that predict the targets, [labels, vocabulary].

    Args:
        model: Decoder and bank.
        prompts: B examples.
        way: ``bare``: D(x). ``prompted``: D(K, x). ``ours``: K injected, as :meth:`DiekaeModel.forward` injects it.
        all_prepared: What ours knows; the prompts' own knowledge, prepared now, if None.
        scope: ``prompt`` or ``all``; the bank's own if None.
        states: Return the final hidden states instead, [labels, W].
    """
    batch = lay_out(model, prompts, scope)
    ids, offset = run_of(batch, way == "prompted")
    if way != "ours":
        return logits_at(model.decoder, ids, batch["labels"], offset, states=states)
    known = list(model.prepare_prompts(prompts) if all_prepared is None else all_prepared)
    with model.behind(known, ids, batch["input_mask"], batch["receives"]):
        return logits_at(model.decoder, ids, batch["labels"], offset, states=states)


def logits_at(
    decoder: PreTrainedModel, ids: Tensor, labels: Tensor, offset: Tensor, *, states: bool = False, **options: Any
) -> Tensor:
    """Return the logits that predict the labels [B, T], which stand ``offset`` [B] columns further right in ids.

    The head runs only at columns that some row needs, and the decoder not at all behind the last of them.

    Args:
        decoder: Any causal decoder.
        ids: Tokens, [B, columns].
        labels: Target tokens at their columns, elsewhere -100; [B, T].
        offset: Columns between a label and its token in ids, [B].
        states: Return the final hidden states instead.
        **options: For the decoder; without them it keeps no cache.

    Returns:
        [labels, vocabulary], row by row.
    """
    rows, columns = (labels != IGNORED).nonzero(as_tuple=True)
    places = columns + offset[rows] - 1
    end = int(places.max()) + 1
    options = {"use_cache": False, "input_ids": ids[:, :end], **options}
    if (given := options.get("position_ids")) is not None:
        options["position_ids"] = given[:, :end]
    if states:
        hidden: Tensor = stack_of(decoder)(**options).last_hidden_state
        return hidden[rows, places]
    needed, inverse = places.unique(return_inverse=True)
    logits: Tensor = decoder(logits_to_keep=needed, **options).logits
    if logits.shape[1] != len(needed):  # an architecture whose head does not take columns
        return logits[rows, places]
    return logits[rows, inverse]


def forked(cache: Cache) -> Cache:
    """Copy a cache without its tensors: layers grow by making new ones, and the given cache keeps the old."""
    twin = copy.copy(cache)
    twin.layers = [copy.copy(layer) for layer in cache.layers]
    return twin


@torch.no_grad()
def score(
    logits_of: Callable[[Sequence[int]], Tensor],
    prompts: Sequence[Prompt],
    batch_size: int = 16,
    progress: Progress = lambda _done, _all: None,
) -> list[Tensor]:
    """Return the NLL of each example's target tokens in nats, fp64 [tokens] each: the one NLL of this library.

    Args:
        logits_of: Given the numbers of some examples, returns the logits that predict their targets.
        prompts: The examples; those of like length go together.
        batch_size: Examples a pass.
        progress: Told how far it is.

    Raises:
        ValueError: There is no prompt.
    """
    found: list[Tensor] = [torch.empty(0)] * len(prompts)

    def losses(rows: Sequence[int]) -> Tensor:
        labels = torch.tensor([token for row in rows for token in prompts[row].target])
        logits = logits_of(rows).float()
        return F.cross_entropy(logits, labels.to(logits.device), reduction="none")

    for rows, values in by_example(losses, prompts, batch_size, progress):
        for row, value in zip(rows, values, strict=True):
            found[row] = value
    return found


def by_example(
    measure: Callable[[Sequence[int]], Tensor],
    prompts: Sequence[Prompt],
    batch_size: int,
    progress: Progress = lambda _done, _all: None,
) -> Iterator[tuple[list[int], Sequence[Tensor]]]:
    """Yield rows and, for each, what is measured at its target tokens, fp64 [tokens].

    Args:
        measure: Given the numbers of some examples, returns a number for each of their target tokens, [labels].
        prompts: The examples; those of like length go together.
        batch_size: Examples a pass.
        progress: Told how far it is.

    Raises:
        ValueError: There is no prompt.
    """
    for rows, done in batches(prompts, batch_size):
        with torch.no_grad():
            values = measure(rows).double().cpu()
        yield rows, values.split([len(prompts[row].target) for row in rows])
        progress(done, len(prompts))


def batches(prompts: Sequence[Prompt], batch_size: int) -> Iterator[tuple[list[int], int]]:
    """Yield the rows of each batch, examples of like length together, and how many are done behind it.

    Raises:
        ValueError: There is no prompt, or a batch holds none.
    """
    if not prompts or batch_size < 1:
        raise ValueError(f"got {len(prompts)} prompts and batch_size={batch_size}; expected at least one of each.")
    lengths = [len(p.knowledge) + len(p.input) + len(p.target) for p in prompts]
    order = sorted(range(len(prompts)), key=lengths.__getitem__)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        yield rows, start + len(rows)


def nll(
    model: DiekaeModel,
    prompts: Sequence[Prompt],
    way: Way,
    *,
    all_prepared: Sequence[PreparedKnowledge] | None = None,
    scope: str | None = None,
    batch_size: int = 16,
    progress: Progress = lambda _done, _all: None,
) -> Losses:
    """Return the NLL of targets in one way; arguments as for :func:`target_logits` and :func:`score`."""

    def logits_of(rows: Sequence[int]) -> Tensor:
        own = None if all_prepared is None else [all_prepared[row] for row in rows]
        return target_logits(model, [prompts[row] for row in rows], way, all_prepared=own, scope=scope)

    return summed(score(logits_of, prompts, batch_size, progress))


def summed(losses: Sequence[Tensor]) -> Losses:
    """Add losses up for each example."""
    return Losses(torch.stack([loss.sum() for loss in losses]), torch.tensor([len(loss) for loss in losses]))
