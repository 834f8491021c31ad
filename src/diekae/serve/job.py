"""One answer that is being generated, and the events that report it."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from transformers import PreTrainedTokenizerBase

from diekae.knowledge import PreparedKnowledge

FinishReason = Literal["stop", "length", "cancelled"]
HALF = "\ufffd"
"""What tokenizers decode an incomplete character to."""


class Refused(ValueError):
    """A request cannot be answered as it is; the message tells the client why."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen, and when an answer ends."""

    max_new_tokens: int = 256
    """Longest answer."""
    temperature: float = 0.0
    """Divides the logits; 0 takes the most likely token."""
    top_p: float = 1.0
    """Choose from the smallest set of likely tokens whose probabilities sum to at least this."""
    seed: int = 0
    """Decides the random choices."""
    stop: tuple[str, ...] = ()
    """Texts that end the answer and are left out of it."""
    top_logprobs: int | None = None
    """Most likely tokens reported beside each token; None reports no log-probabilities."""


class TokenScore(NamedTuple):
    """A token with its log-probability."""

    token: str
    logprob: float
    """Natural logarithm of the probability, before temperature and top-p."""


class Delta(NamedTuple):
    """What one token adds to an answer."""

    text: str = ""
    """New text; may be empty, for example after half a character."""
    score: TokenScore | None = None
    """The token's log-probability, if it was asked for."""
    alternatives: tuple[TokenScore, ...] = ()
    """The most likely tokens at this place."""
    offset: int = 0
    """Characters of the answer before this token."""


class End(NamedTuple):
    """The end of an answer."""

    reason: FinishReason
    tokens: int
    """Tokens that were generated."""


Event = Delta | End | BaseException


@dataclass(eq=False)
class Job:
    """One answer to generate."""

    prompt: tuple[int, ...]
    """Tokens of x, anchor first."""
    prepared: PreparedKnowledge | None
    """K; None answers without knowledge."""
    sampling: Sampling
    notify: Callable[[Event], None]
    """Called from the engine's thread with each event; must neither block nor raise."""
    generated: list[int] = field(default_factory=list)
    text: str = ""
    """The answer so far."""
    finished: bool = False
    submitted: float = field(default_factory=time.perf_counter)
    """When it was made, by ``time.perf_counter``."""
    started: float | None = None
    """When the engine took it out of the queue."""
    cancelled: bool = False
    """Whether nobody waits for the answer any more."""
    _sent: int = 0

    def cancel(self) -> None:
        """Ask the engine to stop after the next token; may be called from any thread."""
        self.cancelled = True

    @property
    def over(self) -> bool:
        """Tell whether no more tokens are needed: the answer is complete, or nobody waits for it."""
        return self.finished or self.cancelled

    @property
    def remaining(self) -> int:
        """Return how many tokens may still be generated."""
        return self.sampling.max_new_tokens - len(self.generated)

    @property
    def size(self) -> int:
        """Return the tokens that attention sees when the answer has its full length."""
        return len(self.prompt) + self.sampling.max_new_tokens + len(self.prepared or ())

    def add(self, token: int, tokenizer: PreTrainedTokenizerBase, ends: set[int], delta: Delta) -> None:
        """Append a token and report the text that it adds, in ``delta``, which holds its log-probabilities.

        A token of ``ends`` ends the answer.
        """
        self.generated.append(token)
        delta = delta._replace(offset=len(self.text))
        if token in ends:
            return self._finish("stop", Delta())
        text = str(tokenizer.decode(self.generated, skip_special_tokens=True, clean_up_tokenization_spaces=False))
        cut = min((start for stop in self.sampling.stop if (start := text.find(stop)) >= 0), default=None)
        self.text = text[:cut]
        if cut is not None:
            return self._finish("stop", delta)
        if not self.remaining:
            return self._finish("length", delta)
        self._send(len(self.text) - self._held_back(), delta)

    def end(self, reason: FinishReason) -> None:
        """Report that the answer is complete."""
        if not self.finished:
            self.finished = True
            self.notify(End(reason, len(self.generated)))

    def fail(self, error: BaseException) -> None:
        """Report that no answer comes."""
        if not self.finished:
            self.finished = True
            self.notify(error)

    def _held_back(self) -> int:
        """Return how many last characters may not be sent yet: half a character, and the beginning of a stop text."""
        whole = self.text.rstrip(HALF)
        begun = (
            size
            for stop in self.sampling.stop
            for size in range(1, min(len(stop), len(whole)) + 1)
            if whole.endswith(stop[:size])
        )
        return len(self.text) - len(whole) + max(begun, default=0)

    def _finish(self, reason: FinishReason, delta: Delta) -> None:
        """Send what was held back, except half a character, and end."""
        self.text = self.text.rstrip(HALF)
        self._send(len(self.text), delta)
        self.end(reason)

    def _send(self, until: int, delta: Delta) -> None:
        until = max(until, self._sent)
        delta = delta._replace(text=self.text[self._sent : until])
        self._sent = until
        if delta.text or delta.score:
            self.notify(delta)
