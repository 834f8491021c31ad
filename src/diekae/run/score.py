"""Scoring: the logits that predict targets, in every way that a decoder can know K, and the loss of each token.

Shapes: B rows, T columns of x, W decoder width; "labels" counts the target tokens of all rows, row by row.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from diekae.data.batch import IGNORED, Batch, collate, run_of, to_device
from diekae.data.prompt import Prompt
from diekae.inject.hookpoints import stack_of
from diekae.knowledge import PreparedKnowledge
from diekae.model import DiekaeModel
from diekae.placement import stays
from diekae.progress import BatchProgress, silent

Way = Literal["bare", "prompted", "ours"]
"""How a decoder knows K: not at all, D(x); in its prompt, D(K, x); or injected, as `DiekaeModel.forward` does it."""


class Losses(NamedTuple):
    """Negative log-likelihood of the targets of some examples."""

    total: Tensor
    """Nats of each whole target, fp64 [examples]."""
    tokens: Tensor
    """Target tokens, int64 [examples]."""
    first: Tensor
    """Nats of each target's first token, fp64 [examples]."""

    @property
    def mean(self) -> float:
        """Return nats per token; every token has the same weight."""
        return float(self.total.sum() / self.tokens.sum())


def lay_out(model: DiekaeModel, prompts: Sequence[Prompt]) -> Batch:
    """Lay a batch out as in the bank's training, on the model's device."""
    return to_device(collate(prompts, scope=model.config.scope, anchor=model.config.anchor), model.device)


def target_logits(
    model: DiekaeModel,
    prompts: Sequence[Prompt],
    way: Way,
    *,
    all_prepared: Sequence[PreparedKnowledge | None] | None = None,
    states: bool = False,
) -> Tensor:
    """Return the logits that predict the targets of B examples, [labels, vocabulary]; or the final states, [labels, W].

    ``ours`` injects ``all_prepared``, by default the prompts' own knowledge, as :meth:`DiekaeModel.forward` does.
    """
    batch = lay_out(model, prompts)
    ids, offset = run_of(batch, way == "prompted")
    if way != "ours":
        return logits_at(model.decoder, ids, batch["labels"], offset, states=states)
    injected = list(model.prepare_prompts(prompts) if all_prepared is None else all_prepared)
    with model.call_context(injected, ids, batch["input_mask"], batch["receives"]):
        return logits_at(model.decoder, ids, batch["labels"], offset, states=states)


def logits_at(
    decoder: PreTrainedModel, ids: Tensor, labels: Tensor, offset: Tensor, *, states: bool = False, **options: Any
) -> Tensor:
    """Return the logits that predict the labels.

    The head runs only at columns that some row needs, and the decoder stops after the last of them.

    Args:
        decoder: Any causal decoder.
        ids: Tokens, [B, columns].
        labels: Target tokens at their columns, elsewhere -100; [B, T].
        offset: The number of columns by which a label's token is further right in ids than in labels, [B].
        states: Return the final hidden states instead, [labels, W].
        **options: For the decoder; by default it keeps no cache.

    Returns:
        [labels, vocabulary], row by row.
    """
    rows, columns = (labels != IGNORED).nonzero(as_tuple=True)
    predicting = columns + offset[rows] - 1
    end = int(predicting.max()) + 1
    options = {"use_cache": False, "input_ids": ids[:, :end], **options}
    if (positions := options.get("position_ids")) is not None:
        options["position_ids"] = positions[:, :end]
    if states:
        hidden: Tensor = stack_of(decoder)(**options).last_hidden_state
        return hidden.to(ids.device)[rows, predicting]
    needed, inverse = predicting.unique(return_inverse=True)
    keep: Tensor | int = needed
    if stays(decoder):  # on another device than the head's, an index is of no use
        needed = torch.arange(int(needed[0]), end)
        inverse, keep = predicting - needed[0], len(needed)
    logits: Tensor = decoder(logits_to_keep=keep, **options).logits
    if logits.shape[1] != len(needed):  # an architecture whose head does not take columns
        return logits[rows, predicting]
    return logits[rows, inverse]


def nll(
    model: DiekaeModel, prompts: Sequence[Prompt], way: Way, *, batch_size: int = 16, progress: BatchProgress = silent
) -> Losses:
    """Return the NLL of the targets in one way; arguments as for :func:`target_logits` and :func:`score`."""

    def logits_of(rows: Sequence[int]) -> Tensor:
        return target_logits(model, [prompts[row] for row in rows], way)

    losses = score(logits_of, prompts, batch_size, progress)
    return Losses(
        torch.stack([loss.sum() for loss in losses]),
        torch.tensor([len(loss) for loss in losses]),
        torch.stack([loss[0] for loss in losses]),
    )


@torch.no_grad()
def score(
    logits_of: Callable[[Sequence[int]], Tensor],
    prompts: Sequence[Prompt],
    batch_size: int = 16,
    progress: BatchProgress = silent,
) -> list[Tensor]:
    """Return the NLL of each example's target tokens in nats, fp64 [tokens] each. All NLL come from here.

    ``logits_of`` takes the numbers of some examples, and returns the logits that predict their targets. Examples of
    similar length share a batch.

    Raises:
        ValueError: There is no prompt.
    """

    def measure(rows: Sequence[int]) -> Tensor:
        labels = torch.tensor([token for row in rows for token in prompts[row].target])
        logits = logits_of(rows).float()
        return F.cross_entropy(logits, labels.to(logits.device), reduction="none")

    losses: list[Tensor] = [torch.empty(0)] * len(prompts)
    for rows, values in by_example(measure, prompts, batch_size, progress):
        for row, value in zip(rows, values, strict=True):
            losses[row] = value
    return losses


def by_example(
    measure: Callable[[Sequence[int]], Tensor],
    prompts: Sequence[Prompt],
    batch_size: int,
    progress: BatchProgress = silent,
) -> Iterator[tuple[list[int], Sequence[Tensor]]]:
    """Yield the rows of each batch, and for each row what was measured at its target tokens, fp64 [tokens].

    ``measure`` takes the numbers of some examples, and returns a number for each of their target tokens, [labels].
    Errors as for :func:`batches`.
    """
    for rows, done in batches(prompts, batch_size):
        with torch.no_grad():
            values = measure(rows).double().cpu()
        yield rows, values.split([len(prompts[row].target) for row in rows])
        progress(done, len(prompts))


def batches(prompts: Sequence[Prompt], batch_size: int) -> Iterator[tuple[list[int], int]]:
    """Yield the rows of each batch, and how many examples are done after it. Similar lengths share a batch.

    Raises:
        ValueError: There is no prompt, or the batch size is below 1.
    """
    if not prompts or batch_size < 1:
        raise ValueError(f"got {len(prompts)} prompts and batch_size={batch_size}; expected at least one of each.")
    lengths = [len(p.knowledge) + len(p.input) + len(p.target) for p in prompts]
    order = sorted(range(len(prompts)), key=lengths.__getitem__)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        yield rows, start + len(rows)
