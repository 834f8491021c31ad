"""Fitted methods that run a decoder with nothing injected, with K in the prompt or in a cache, and copies of decoders.

Shapes: B prompts, T columns of x, W decoder width.
"""

from __future__ import annotations

import copy
import importlib.util
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel, PreTrainedTokenizerBase

from diekae.data.prompt import Batch, Prompt, pad_left, run_of
from diekae.run.answer import end_tokens, greedy_options, until_end
from diekae.run.score import forked, logits_at
from diekae_research.methods.base import Fitted


@dataclass(kw_only=True)
class Plain(Fitted):
    """A decoder that reads anchor, K and x in its prompt; with ``knowledge=False`` D(x)."""

    def read(self, prompts: Sequence[Prompt], batch: Batch, states: bool) -> Tensor:  # noqa: ARG002
        """See :meth:`Fitted.read`."""
        ids, offset = run_of(batch, self.knowledge)
        return logits_at(self.decoder, ids, batch["labels"], offset, states=states)

    def extend(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[list[int]]:
        """See :meth:`Fitted.extend`."""
        ids, mask = pad_left([self._ids(p) for p in prompts], self.tokenizer.pad_token_id, self.decoder.device)
        return greedy(self.decoder, ids, mask, max_new_tokens, self.tokenizer)

    def _ids(self, prompt: Prompt) -> tuple[int, ...]:
        return prompt.anchor + prompt.knowledge + self.own_anchor(prompt) + prompt.input


@dataclass(kw_only=True)
class Prefixed(Fitted):
    """A decoder that continues keys and values made beforehand; rows with the same K share them."""

    @abstractmethod
    def prefix(self, prompt: Prompt) -> Cache:
        """Return keys and values of one row that stand for anchor and K; they are not changed."""

    def read(self, prompts: Sequence[Prompt], batch: Batch, states: bool) -> Tensor:
        """See :meth:`Fitted.read`."""
        found: dict[int, Tensor] = {}
        for rows in self._alike(prompts):
            cut = len(prompts[rows[0]].anchor) + len(prompts[rows[0]].knowledge)
            cache = forked(self.prefix(prompts[rows[0]]))
            cache.batch_repeat_interleave(len(rows))
            seen = logits_at(
                self.decoder,
                batch["full_ids"][rows, cut:],
                batch["labels"][rows],
                batch["offset"][rows] - cut,
                states=states,
                past_key_values=cache,
                use_cache=True,
            )
            found.update(zip(rows, seen.split([len(prompts[row].target) for row in rows]), strict=True))
        return torch.cat([found[row] for row in range(len(prompts))])

    def extend(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[list[int]]:
        """See :meth:`Fitted.extend`; one row at a time."""
        return [self._extend(prompt, max_new_tokens) for prompt in prompts]

    def _extend(self, prompt: Prompt, max_new_tokens: int) -> list[int]:
        cache, ends, made = forked(self.prefix(prompt)), end_tokens(self.decoder), list[int]()
        ids = self.own_anchor(prompt) + prompt.input
        while len(made) < max_new_tokens and not (made and made[-1] in ends):
            given = torch.tensor([ids], device=self.decoder.device)
            logits = self.decoder(input_ids=given, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
            made.append(int(logits[0, -1].argmax()))
            ids = (made[-1],)
        return made

    def _alike(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Return the rows of each distinct K."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for row, prompt in enumerate(prompts):
            groups.setdefault(prompt.anchor + prompt.knowledge, []).append(row)
        return list(groups.values())


def greedy(
    decoder: PreTrainedModel, ids: Tensor, mask: Tensor, max_new_tokens: int, tokenizer: PreTrainedTokenizerBase
) -> list[list[int]]:
    """Return what the decoder says after ids, whatever its own generation settings sample."""
    options = greedy_options(max_new_tokens, tokenizer)
    made = decoder.generate(input_ids=ids, attention_mask=mask, **options)  # type: ignore[operator]
    return until_end(made[:, ids.shape[1] :], decoder)


def twin(decoder: PreTrainedModel) -> PreTrainedModel:
    """Copy a decoder's modules, but not its weights.

    Modules may be added to the copy and its parameters marked as trainable or not: the given decoder sees nothing of
    it. The weights themselves are the same memory, so nothing may write into them.
    """
    tensors = [*decoder.parameters(), *decoder.buffers()]
    shared: dict[int, Any] = {
        id(t): nn.Parameter(t.detach(), requires_grad=False) if isinstance(t, nn.Parameter) else t for t in tensors
    }
    return copy.deepcopy(decoder, shared)


def need_peft(name: str) -> None:
    """Check that PEFT can be imported.

    Raises:
        ModuleNotFoundError: It is not installed.
    """
    if importlib.util.find_spec("peft") is None:
        raise ModuleNotFoundError(f"the method {name!r} needs PEFT: run `pip install diekae-research`")
