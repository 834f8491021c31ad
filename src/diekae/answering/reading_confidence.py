"""How probable it is that what the decoder reads answers a question, from the decoder's own states.

The search compares words and vectors; the decoder has read passages and question together. A logistic regression on
the mean state of the question's tokens, after one of the middle layers, was fitted for one decoder and format on
questions with passages that answer them, with similar ones, and with their own without the answer. How many of the
question's words the passages cover, and how many passages were searched, count a little beside it. It comes with the
package for SmolLM2-135M-Instruct in the format ``chat``, read in all layers up to that one; all others use the
confidence of the search.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diekae.checkpoint import shipped_banks
from diekae.files import write_atomically
from diekae.inject.contexts import HookContext
from diekae.inject.hookpoints import find_blocks, first_tensor
from diekae.model import DiekaeModel

FILE = "confidence.json"


class ReadingConfidence(NamedTuple):
    """Turns the states of a question into the probability that K answers it; of one decoder and one format."""

    decoder: str
    """Fingerprint of the decoder."""
    format: str
    """Format of the questions."""
    layer: int
    """The states are those after this layer."""
    weights: tuple[float, ...]
    """One for each element of the mean state."""
    others: tuple[float, float, float]
    """Weights of the coverage, of the logarithm of the number of passages searched, and of the constant."""
    threshold: float
    """From this probability on a question counts as answered."""

    def __call__(self, state: Tensor, signals: tuple[float, float, float]) -> float:
        """Return the probability that passages answer a question.

        Args:
            state: Mean state of the question's tokens, [W].
            signals: Of the search; see :func:`diekae.answering.confidence.signals_of`.
        """
        coverage, _, log_searched = signals  # the likeness has another scale with each embedder
        others = sum(weight * value for weight, value in zip(self.others, (coverage, log_searched, 1.0), strict=True))
        return float(torch.sigmoid(torch.tensor(self.weights) @ state.float().cpu() + others))


def reading_confidence_for(model: DiekaeModel, format: str | None = None) -> ReadingConfidence | None:
    """Return what came with the package for the model's decoder and a format, its own if None; None if nothing did.

    It is for banks that read K as slots in every layer up to the one whose states count.
    """
    fitted = _shipped().get((model.bank.decoder, format or model.config.format))
    if fitted is None or not model.attached.by_attention or not set(range(fitted.layer + 1)) <= set(model.layers):
        return None
    return fitted


@cache
def _shipped() -> dict[tuple[str, str], ReadingConfidence]:
    """Return what came with the package, by decoder and format."""
    paths = [folder / FILE for folder in shipped_banks().values()]
    fitted = [each for path in paths if path.is_file() for each in read_fitted(path)]
    return {(each.decoder, each.format): each for each in fitted}


def read_fitted(path: Path) -> list[ReadingConfidence]:
    """Read what :func:`write_fitted` wrote.

    Raises:
        ValueError: The file is damaged.
    """
    try:
        rows = json.loads(path.read_bytes())
        return [
            ReadingConfidence(**{**row, "weights": tuple(row["weights"]), "others": tuple(row["others"])})
            for row in rows
        ]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{str(path)!r} is damaged ({error!r}); install the package again.") from error


def write_fitted(path: Path, fitted: Sequence[ReadingConfidence]) -> None:
    """Write what was fitted for the formats of one decoder."""
    write_atomically(path, (json.dumps([each._asdict() for each in fitted], indent=1) + "\n").encode())


@contextmanager
def question_states(model: DiekaeModel, layer: int, tokens: Sequence[int]) -> Iterator[list[Tensor]]:
    """Record the mean state after a layer of each row's last tokens, in the first forward inside the block.

    Args:
        model: Its decoder is listened to.
        layer: The layer.
        tokens: How many tokens of each of the B rows.

    Yields:
        A list that is empty until the decoder has read x, and then holds the states [B, W], in fp32.
    """
    states: list[Tensor] = []

    def record(_module: Any, _args: Any, _kwargs: Any, output: Any) -> None:
        if not states:
            rows = zip(first_tensor(output), tokens, strict=True)
            states.append(torch.stack([row[-count:].float().mean(0) for row, count in rows]))

    block = find_blocks(model.decoder)[layer]
    with HookContext(lambda context: context.add_hook(block, record)):
        yield states
