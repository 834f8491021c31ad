"""Fitted methods that run a decoder with K in the prompt or in a cache, and copies of decoders.

Shapes: B prompts, T columns of x, W decoder width.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel

from diekae.data.batch import Batch, pad_left, run_of
from diekae.data.prompt import Prompt
from diekae.inject.cache import forked
from diekae.model.generation import end_tokens, greedy_options, until_end
from diekae.run.score import logits_at
from diekae_research.methods.base import Fitted


def extend_greedily(
    fitted: Fitted, rows: Sequence[tuple[int, ...]], max_new_tokens: int, generate: Callable[..., Tensor] | None = None
) -> list[list[int]]:
    """Return the tokens that are generated greedily behind some rows of tokens.

    Args:
        fitted: Its decoder and tokenizer are used.
        rows: Tokens of the context, B rows.
        max_new_tokens: Longest answer.
        generate: Takes the arguments of Transformers' ``generate``; the decoder's own if None.
    """
    ids, mask = pad_left(list(rows), fitted.tokenizer.pad_token_id, fitted.decoder.device)
    options = greedy_options(max_new_tokens, fitted.tokenizer)
    run: Callable[..., Tensor] = generate or fitted.decoder.generate  # type: ignore[assignment]
    generated = run(input_ids=ids, attention_mask=mask, **options)
    return until_end(generated[:, ids.shape[1] :], fitted.decoder)


@dataclass(kw_only=True)
class Plain(Fitted):
    """A decoder that reads anchor, K and x in its prompt; D(x) with ``knowledge=False``."""

    def read(self, prompts: Sequence[Prompt], batch: Batch, states: bool) -> Tensor:  # noqa: ARG002
        """See :meth:`Fitted.read`."""
        ids, offset = run_of(batch, self.knowledge)
        return logits_at(self.decoder, ids, batch["labels"], offset, states=states)

    def extend(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[list[int]]:
        """See :meth:`Fitted.extend`."""
        rows = [p.anchor + p.knowledge + self.own_anchor(p) + p.input for p in prompts]
        return extend_greedily(self, rows, max_new_tokens)


@dataclass(kw_only=True)
class Prefixed(Fitted):
    """A decoder that reads x behind stored keys and values; rows with the same K share them."""

    @abstractmethod
    def prefix(self, prompt: Prompt) -> Cache:
        """Return keys and values of one row that stand for anchor and K; they are not changed."""

    def read(self, prompts: Sequence[Prompt], batch: Batch, states: bool) -> Tensor:
        """See :meth:`Fitted.read`."""
        logits: dict[int, Tensor] = {}
        for rows in self._rows_of_each_k(prompts):
            cut = len(prompts[rows[0]].anchor) + len(prompts[rows[0]].knowledge)
            cache = forked(self.prefix(prompts[rows[0]]))
            cache.batch_repeat_interleave(len(rows))
            together = logits_at(
                self.decoder,
                batch["full_ids"][rows, cut:],
                batch["labels"][rows],
                batch["offset"][rows] - cut,
                states=states,
                cache=cache,
                use_cache=True,
            )
            logits.update(zip(rows, together.split([len(prompts[row].target) for row in rows]), strict=True))
        return torch.cat([logits[row] for row in range(len(prompts))])

    def extend(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[list[int]]:
        """See :meth:`Fitted.extend`; one row at a time."""
        return [self._extend(prompt, max_new_tokens) for prompt in prompts]

    def _extend(self, prompt: Prompt, max_new_tokens: int) -> list[int]:
        cache, ends, tokens = forked(self.prefix(prompt)), end_tokens(self.decoder), list[int]()
        ids = self.own_anchor(prompt) + prompt.input
        while len(tokens) < max_new_tokens and not (tokens and tokens[-1] in ends):
            row = torch.tensor([ids], device=self.decoder.device)
            logits = self.decoder(input_ids=row, cache=cache, use_cache=True, logits_to_keep=1).logits
            tokens.append(int(logits[0, -1].argmax()))
            ids = (tokens[-1],)
        return tokens

    def _rows_of_each_k(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        groups: dict[tuple[int, ...], list[int]] = {}
        for row, prompt in enumerate(prompts):
            groups.setdefault(prompt.anchor + prompt.knowledge, []).append(row)
        return list(groups.values())


def twin(decoder: PreTrainedModel) -> PreTrainedModel:
    """Copy a decoder's modules, but not its weights.

    Modules may be added to the copy, and its parameters marked as trainable or not; the decoder does not change. The
    weights themselves are shared, so nothing may write into them.
    """
    tensors = [*decoder.parameters(), *decoder.buffers()]
    shared: dict[int, Any] = {
        id(t): nn.Parameter(t.detach(), requires_grad=False) if isinstance(t, nn.Parameter) else t for t in tensors
    }
    return copy.deepcopy(decoder, shared)
