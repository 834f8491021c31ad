"""Choosing the next token of every row of a batch, each by the options of its own request.

Shapes: B rows, V tokens of the vocabulary.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedTokenizerBase, StoppingCriteria

from diekae.serve.job import Delta, Job, TokenScore

COLDEST = 1e-5
"""Temperatures below this take the most likely token: dividing by them overflows."""
LEAST_LOGPROB = -9999.0
"""Reported for impossible tokens: JSON has no infinity."""


class RowSampler(LogitsProcessor):
    """Choose tokens inside ``generate``: leave one token possible in each row, which greedy decoding then takes.

    Rows of one batch can have different temperatures, seeds and ends, and each token is reported when it is chosen.
    """

    def __init__(self, jobs: Sequence[Job], tokenizer: PreTrainedTokenizerBase, ends: set[int]) -> None:
        """Serve a batch, one job a row; no other thread may use the tokenizer meanwhile. ``ends`` end an answer."""
        self.jobs, self.tokenizer, self.ends = jobs, tokenizer, ends

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002 - the signature is Transformers'
        """Return scores [B, V] in which every row has one token left."""
        tokens: list[int] = scores.argmax(-1).tolist()  # of all rows at once: a GPU is waited for once
        for row, job in enumerate(self.jobs):
            if not job.over:
                tokens[row] = self._choose(job, scores[row].float(), tokens[row])
        chosen = torch.tensor(tokens, device=scores.device)
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen[:, None], 0.0)

    def _choose(self, job: Job, logits: Tensor, likeliest: int) -> int:
        """Choose a job's next token from logits [V], and report it."""
        sampling = job.sampling
        token = likeliest if sampling.temperature < COLDEST else _draw(job, logits)
        delta = Delta()
        if sampling.top_logprobs is not None:
            logprobs = logits.log_softmax(-1).clamp(min=LEAST_LOGPROB)
            values, indices = logprobs.topk(min(sampling.top_logprobs, len(logprobs)))
            alternatives = [self._score(*pair) for pair in zip(indices.tolist(), values.tolist(), strict=True)]
            delta = Delta("", self._score(token, float(logprobs[token])), tuple(alternatives))
        job.add(token, self.tokenizer, self.ends, delta)
        return token

    def _score(self, token: int, logprob: float) -> TokenScore:
        return TokenScore(str(self.tokenizer.decode([token])), logprob)


def _draw(job: Job, logits: Tensor) -> int:
    """Draw a token by temperature and top-p; the draw depends only on the seed and on the place in the answer."""
    probabilities = ((logits - logits.max()) / job.sampling.temperature).softmax(-1)
    ordered, order = probabilities.sort(descending=True)
    outside = ordered.cumsum(-1) - ordered >= job.sampling.top_p  # the most likely token always stays
    # In the vocabulary's order, so that rounding cannot exchange two tokens that are equally likely.
    probabilities[order[outside]] = 0.0
    generator = torch.Generator().manual_seed((job.sampling.seed * 1_000_003 + len(job.generated)) % 2**63)
    return int(torch.multinomial(probabilities.cpu(), 1, generator=generator))


class RowsEnd(StoppingCriteria):
    """End the rows that are over, and all rows when the batch is to be formed again."""

    def __init__(self, jobs: Sequence[Job], interrupt: Callable[[int], bool]) -> None:
        """Watch a batch, one job a row.

        ``interrupt``, given the tokens generated in this batch, tells whether it is to be formed again.
        """
        self.jobs, self.interrupt, self.steps = jobs, interrupt, 0

    def __call__(self, input_ids: Tensor, scores: object, **_: object) -> Tensor:  # noqa: ARG002
        """Return which rows end, bool [B]."""
        self.steps += 1
        everything = self.interrupt(self.steps)
        return torch.tensor([everything or job.over for job in self.jobs], device=input_ids.device)
