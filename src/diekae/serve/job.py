"""One answer that is being generated, and what its reader is told as it grows."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from transformers import PreTrainedTokenizerBase

from diekae.knowledge import PreparedKnowledge

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen, and when an answer ends."""

    max_new_tokens: int = 256
    """Longest answer."""
    temperature: float = 0.0
    """Divides the logits; 0 takes the likeliest token."""
    top_p: float = 1.0
    """Smallest set of likeliest tokens to choose from whose probabilities reach this sum."""
    seed: int | None = None
    """Decides the choices; None draws a new seed."""
    stop: tuple[str, ...] = ()
    """Texts that end the answer and are left out of it."""
    top_logprobs: int | None = None
    """Likeliest tokens reported beside each token; None reports no log-probabilities."""


class TokenScore(NamedTuple):
    """A token with its log-probability."""

    token: str
    logprob: float
    """Natural logarithm of the probability, before temperature and top-p."""


class Delta(NamedTuple):
    """What one token adds to an answer."""

    text: str
    """New text; may be empty, as for a token that is half a character."""
    score: TokenScore | None = None
    """The token's log-probability, if it was asked for."""
    alternatives: tuple[TokenScore, ...] = ()
    """The likeliest tokens at this place."""


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
    """Called from the engine's thread with each event; must not block."""
    generated: list[int] = field(default_factory=list)
    text: str = ""
    """The answer so far."""
    finished: bool = False
    _cancelled: threading.Event = field(default_factory=threading.Event)
    _sent: int = 0

    def cancel(self) -> None:
        """Ask the engine to stop after the next token; may be called from any thread."""
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        """Tell whether nobody waits for the answer any more."""
        return self._cancelled.is_set()

    @property
    def remaining(self) -> int:
        """Return how many tokens may still be generated."""
        return self.sampling.max_new_tokens - len(self.generated)

    def add(self, token: int, tokenizer: PreTrainedTokenizerBase, ends: set[int], delta: Delta) -> None:
        """Take a new token, and tell the reader what it adds to the text.

        Args:
            token: The token that was chosen.
            tokenizer: Turns tokens into text.
            ends: Tokens that end an answer.
            delta: The token's log-probabilities; its text is worked out here.
        """
        self.generated.append(token)
        if token in ends:
            self._flush(len(self.text), delta)
            return self.end("stop")
        text = str(tokenizer.decode(self.generated, skip_special_tokens=True))
        cut = min((place for stop in self.sampling.stop if (place := text.find(stop)) >= 0), default=None)
        self.text = text if cut is None else text[:cut]
        if cut is not None:
            self._flush(len(self.text), delta)
            return self.end("stop")
        if not self.remaining:
            self._flush(len(self.text), delta)
            return self.end("length")
        self._flush(len(self.text) - self._held_back(), delta)

    def end(self, reason: FinishReason) -> None:
        """Tell the reader that the answer is complete."""
        if not self.finished:
            self.finished = True
            self.notify(End(reason, len(self.generated)))

    def fail(self, error: BaseException) -> None:
        """Tell the reader that no answer comes."""
        if not self.finished:
            self.finished = True
            self.notify(error)

    def _held_back(self) -> int:
        """Return how many last characters may not be sent yet: half a character, or the beginning of a stop text."""
        half = len(self.text) - len(self.text.rstrip("\ufffd"))
        begun = (
            size
            for stop in self.sampling.stop
            for size in range(1, min(len(stop), len(self.text)) + 1)
            if self.text.endswith(stop[:size])
        )
        return max(half, max(begun, default=0))

    def _flush(self, until: int, delta: Delta) -> None:
        until = max(until, self._sent)
        self.notify(delta._replace(text=self.text[self._sent : until]))
        self._sent = until
