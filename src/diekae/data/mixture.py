"""Several sources in one training set."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import NamedTuple

from diekae.data.example import DataError, check_limit, check_split
from diekae.data.prompt import Prompt, Prompter, other_knowledge
from diekae.data.sources import load_source


@dataclass(frozen=True, slots=True)
class DataSpec:
    """Which examples of which source.

    Raises:
        DataError: If the split is unknown, a limit is below 1, a share is none, or the weight is no positive number.
    """

    source: str
    """A registered name, see `diekae.data.source_names`."""
    folder: str | None = None
    """The folder with the upstream files; ``None`` for a source that needs none."""
    split: str = "train"
    """``train``, ``validation`` or ``test``."""
    limit: int | None = None
    """At most this many examples, a seeded random subset; all when ``None``."""
    longest: int | None = None
    """Leave out examples whose knowledge has more tokens than this, before the limit counts."""
    format: str | None = None
    """Text around x and y, ``plain``, ``qa`` or ``chat``; the bank's own when ``None``."""
    options: Mapping[str, bool | int] = field(default_factory=dict)
    """Values for options of the source, see the source."""
    unrelated: float = 0.0
    """Share of the examples that are given another's knowledge, so that a bank learns that irrelevant knowledge changes
    almost nothing. Not under objective ``cross_entropy``, which would teach the target from it: recipes refuse that."""
    among: int | None = None
    """Put each example's knowledge among that of others, as one text of at most so many tokens, a length drawn for
    each, so that a bank learns to find what matters in much that does not; it stands alone when ``None``."""
    apart: float = 0.0
    """Share of the examples of ``among`` whose documents are prepared apart, each in its own template; a bank then
    learns to read them as D(K, x) reads them together."""
    weight: float | None = None
    """The spec's share of a mixture, relative to the other specs' weights; as many as there are when ``None``."""

    def __post_init__(self) -> None:
        """Check what can be checked before any file is read."""
        check_split(self.split)
        check_limit(self.limit)
        if self.among is not None and self.among < 1:
            raise DataError(f"among is {self.among}; expected a positive number of tokens, or None for K alone")
        if not 0 <= self.apart <= 1 or (self.apart and self.among is None):
            raise DataError(
                f"apart is {self.apart}; expected a share of the examples, from 0 to 1, and `among` with it"
            )
        if not 0 <= self.unrelated <= 1:
            raise DataError(f"unrelated is {self.unrelated}; expected a share of the examples, from 0 to 1")
        if self.weight is not None and not 0 < self.weight < float("inf"):
            raise DataError(f"weight is {self.weight}; expected a positive number, or None for no weighing")


def load_mixture(specs: Sequence[DataSpec], seed: int, prompter: Prompter) -> list[Prompt]:
    """Load and tokenize every spec and shuffle all examples together.

    With weights, the mixture is as long as without, but each spec has its share of it: of a spec that has more
    examples, a random part is taken; one that has fewer is repeated, each example as often as the next, or once more.

    Args:
        specs: At least one.
        seed: Decides the subsets and the order.
        prompter: Tokenizes, in the format that a spec names.

    Returns:
        All prompts, in an order that depends on `specs` and `seed` alone.

    Raises:
        DataError: If `specs` is empty, only some have a weight, a source cannot be loaded, or no example is short
            enough.
    """
    if not specs:
        raise DataError("no data set was named; expected at least one DataSpec")
    weights = [spec.weight for spec in specs if spec.weight is not None]
    if weights and len(weights) < len(specs):
        raise DataError(f"{len(weights)} of {len(specs)} data sets have a weight; expected one for each, or none")
    parts = [load_prompts(spec, seed, prompter) for spec in specs]
    if weights:
        sizes = shares(sum(map(len, parts)), weights)
        parts = [list(islice(cycle(part), size)) for part, size in zip(parts, sizes, strict=True)]
    prompts = [prompt for part in parts for prompt in part]
    random.Random(seed).shuffle(prompts)
    return prompts


def shares(total: int, weights: Sequence[float]) -> list[int]:
    """Divide a number of examples by weight, exactly: what rounding leaves goes to the largest remainders."""
    exact = [total * weight / sum(weights) for weight in weights]
    sizes = [int(share) for share in exact]
    for index in sorted(range(len(sizes)), key=lambda index: sizes[index] - exact[index])[: total - sum(sizes)]:
        sizes[index] += 1
    return sizes


class Chosen(NamedTuple):
    """What was taken from one spec."""

    prompts: list[Prompt]
    """The examples, tokenized."""
    left_out: int
    """Examples that were met on the way and left out, because their knowledge is longer than the spec allows."""


def load_prompts(spec: DataSpec, seed: int, prompter: Prompter) -> list[Prompt]:
    """Load and tokenize one spec; arguments and errors as in `load_mixture`."""
    return choose_prompts(spec, seed, prompter).prompts


def choose_prompts(spec: DataSpec, seed: int, prompter: Prompter) -> Chosen:
    """Load and tokenize one spec, and count what is too long; arguments and errors as in `load_mixture`."""
    # With a longest K the limit counts what is short enough, so everything has to be loaded first.
    limit = spec.limit if spec.longest is None else None
    examples = load_source(
        spec.source,
        folder=spec.folder,
        split=check_split(spec.split),
        limit=limit,
        seed=seed,
        options=spec.options,
    )
    # Shuffled first, so that tokenizing can stop at the limit.
    random.Random(seed).shuffle(examples)
    prompts: list[Prompt] = []
    texts: list[str] = []
    left_out = 0
    for example in examples:
        prompt = prompter.prompt(example, spec.format)
        if spec.longest is None or len(prompt.knowledge) <= spec.longest:
            prompts.append(prompt)
            texts.append("\n".join(example.knowledge))
        else:
            left_out += 1
        if len(prompts) == spec.limit:
            break
    if not prompts:
        raise DataError(f"source {spec.source!r}: no example has at most longest={spec.longest} tokens of knowledge")
    if spec.among is not None:
        prompts = _among_others(prompts, texts, spec, random.Random(seed), prompter)
    return Chosen(_exchange_some(prompts, spec), left_out)


def _among_others(
    prompts: list[Prompt], texts: list[str], spec: DataSpec, draw: random.Random, prompter: Prompter
) -> list[Prompt]:
    """Put the knowledge of each prompt, whose text stands beside it, among the others' at a place of its own."""
    most = spec.among or 0
    lengths = {text: len(prompt.knowledge) for text, prompt in zip(texts, prompts, strict=True)}
    documents = [text for text in lengths if text]
    enough = min(len(documents), 2 + most // min(lengths[text] for text in documents)) if documents else 0
    found = []
    for number, (own, prompt) in enumerate(zip(texts, prompts, strict=True)):
        together, total = [own] if own else [], lengths[own]
        wanted = draw.randint(min(total, most), most)
        for other in draw.sample(documents, enough):
            if other not in together and total + lengths[other] <= wanted:
                together.insert(draw.randint(0, len(together)), other)
                total += lengths[other]
        if not together:
            found.append(prompt)
            continue
        # Evenly spread, as the unrelated ones are.
        split = int((number + 1) * spec.apart) > int(number * spec.apart)
        apart = tuple(map(prompter.knowledge, together)) if split and len(together) > 1 else ()
        found.append(dataclasses.replace(prompt, knowledge=prompter.knowledge("\n".join(together)), apart=apart))
    return found


def _exchange_some(prompts: list[Prompt], spec: DataSpec) -> list[Prompt]:
    """Give the spec's unrelated share of the prompts, evenly spread, another prompt's knowledge."""
    if not spec.unrelated:
        return prompts
    partners = other_knowledge([prompt.knowledge for prompt in prompts])
    if partners is None:
        raise DataError(f"source {spec.source!r}: all examples know the same, so none can be given unrelated knowledge")
    return [
        dataclasses.replace(prompt, knowledge=prompts[partner].knowledge, apart=prompts[partner].apart)
        if int((number + 1) * spec.unrelated) > int(number * spec.unrelated)
        else prompt
        for number, (prompt, partner) in enumerate(zip(prompts, partners, strict=True))
    ]
