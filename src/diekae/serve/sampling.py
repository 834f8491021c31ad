"""Choosing the next token of every row of a batch, each by the options of its own request.

Shapes: B rows, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedTokenizerBase, StoppingCriteria

from diekae.serve.job import Delta, Job, TokenScore


class RowSampler(LogitsProcessor):
    """Chooses tokens inside ``generate``: it leaves one token of each row possible, which greedy decoding then takes.

    So rows of one batch can have different temperatures, seeds and ends, and each token is reported when it is chosen.
    """

    def __init__(self, jobs: Sequence[Job], tokenizer: PreTrainedTokenizerBase, ends: set[int]) -> None:
        """Serve a batch.

        Args:
            jobs: One a row.
            tokenizer: The decoder's.
            ends: Tokens that end an answer.
        """
        self.jobs, self.tokenizer, self.ends = jobs, tokenizer, ends

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002 - the signature is Transformers'
        """Return scores [B, V] in which every row has one token left."""
        chosen = torch.full((len(scores),), next(iter(self.ends), 0), device=scores.device)
        for row, job in enumerate(self.jobs):
            if not (job.finished or job.cancelled):
                chosen[row] = self._choose(job, scores[row].float())
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen[:, None], 0.0)

    def _choose(self, job: Job, logits: Tensor) -> int:
        """Choose a job's next token from logits [V], and report it."""
        sampling = job.sampling
        token = int(logits.argmax()) if sampling.temperature == 0 else _draw(job, logits)
        delta = Delta("")
        if sampling.top_logprobs is not None:
            logprobs = logits.log_softmax(-1)
            best = logprobs.topk(sampling.top_logprobs) if sampling.top_logprobs else None
            pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True) if best else ()
            delta = Delta(
                "",
                TokenScore(self._text(token), float(logprobs[token])),
                tuple(TokenScore(self._text(other), value) for other, value in pairs),
            )
        job.add(token, self.tokenizer, self.ends, delta)
        return token

    def _text(self, token: int) -> str:
        return str(self.tokenizer.decode([token]))


def _draw(job: Job, logits: Tensor) -> int:
    """Draw a token by temperature and top-p; the draw depends on the seed and the place in the answer alone."""
    probabilities = (logits / job.sampling.temperature).softmax(-1)
    ordered, order = probabilities.sort(descending=True)
    outside = ordered.cumsum(-1) - ordered >= job.sampling.top_p  # the likeliest token always stays
    ordered = ordered.masked_fill(outside, 0.0).cpu()
    generator = torch.Generator().manual_seed(((job.sampling.seed or 0) * 1_000_003 + len(job.generated)) % 2**63)
    return int(order[int(torch.multinomial(ordered, 1, generator=generator))])


class RowsEnd(StoppingCriteria):
    """Ends the rows that are finished or cancelled, and all rows when the batch is to be formed anew."""

    def __init__(self, jobs: Sequence[Job], interrupt: Callable[[int], bool]) -> None:
        """Watch a batch.

        Args:
            jobs: One a row.
            interrupt: Given the tokens generated in this batch, tells whether it is to be formed anew.
        """
        self.jobs, self.interrupt, self.steps = jobs, interrupt, 0

    def __call__(self, input_ids: Tensor, scores: object, **_: object) -> Tensor:  # noqa: ARG002
        """Return which rows end, bool [B]."""
        self.steps += 1
        if self.interrupt(self.steps):
            return torch.ones(len(self.jobs), dtype=torch.bool, device=input_ids.device)
        ended = [job.finished or job.cancelled for job in self.jobs]
        return torch.tensor(ended, device=input_ids.device)
