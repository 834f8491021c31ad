"""Mixtures: examples of several sources in one training set."""

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
    """Which examples of which source to use.

    Raises:
        DataError: The split is unknown, or a number is out of range.
    """

    source: str
    """Name of the source, see `diekae.data.sources.source_names`."""
    folder: str | None = None
    """Folder with the source's files; None for a source that needs none."""
    split: str = "train"
    """``train``, ``validation`` or ``test``."""
    limit: int | None = None
    """Most examples, a random subset; None for all."""
    longest: int | None = None
    """Most tokens of K; longer examples are left out before ``limit`` counts. None for no bound."""
    format: str | None = None
    """Text around x and y: ``plain``, ``qa`` or ``chat``; None for the bank's own format."""
    options: Mapping[str, bool | int] = field(default_factory=dict)
    """Options of the source."""
    unrelated: float = 0.0
    """Share of the examples, from 0 to 1, that get another example's K, so that a bank learns that irrelevant knowledge
    changes almost nothing. Recipes refuse it with objective ``cross_entropy``, which would teach y from that K."""
    among: int | None = None
    """Most tokens of a text in which K is placed among the knowledge of other examples, so that a bank learns to find
    what matters; the length of each text is drawn at random. None for K alone."""
    apart: float = 0.0
    """Share of the examples with ``among``, from 0 to 1, whose documents are prepared separately, each in its own
    template, so that a bank learns to read them as D(K, x) reads them together."""
    weight: float | None = None
    """Share of a mixture, relative to the weights of the other specs; None keeps the source's natural size."""

    def __post_init__(self) -> None:
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
    """Load and tokenize at least one spec, and shuffle their examples together; only specs and seed decide the order.

    Weights, which all specs have or none, do not change the length of the mixture, but the share of each spec. A spec
    with more examples than its share contributes a random part; a spec with fewer is repeated evenly.

    Raises:
        DataError: There is no spec, only some have a weight, a source cannot be loaded, or no example is short enough.
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
    """Divide a number of examples by weight. The sizes add up to it: the largest remainders are rounded up."""
    exact = [total * weight / sum(weights) for weight in weights]
    sizes = [int(share) for share in exact]
    for index in sorted(range(len(sizes)), key=lambda index: sizes[index] - exact[index])[: total - sum(sizes)]:
        sizes[index] += 1
    return sizes


class Chosen(NamedTuple):
    """The examples of one spec."""

    prompts: list[Prompt]
    """The examples, tokenized."""
    left_out: int
    """Number of examples that were left out because their K is longer than the spec allows."""


def load_prompts(spec: DataSpec, seed: int, prompter: Prompter) -> list[Prompt]:
    """Load and tokenize one spec; arguments and errors as in `load_mixture`."""
    return choose_prompts(spec, seed, prompter).prompts


def choose_prompts(spec: DataSpec, seed: int, prompter: Prompter) -> Chosen:
    """Load and tokenize one spec, and count examples that are too long; arguments and errors as in `load_mixture`."""
    # `limit` counts the examples that are short enough, so a bound on the length needs all of them.
    limit = spec.limit if spec.longest is None else None
    examples = load_source(
        spec.source, folder=spec.folder, split=check_split(spec.split), limit=limit, seed=seed, options=spec.options
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
    """Place the knowledge of each prompt, given as text too, at a random position among the knowledge of others.

    The spec says how long the joint text may be, and what share of the prompts has separate documents.
    """
    most = spec.among or 0
    lengths = {text: len(prompt.knowledge) for text, prompt in zip(texts, prompts, strict=True)}
    documents = [text for text in lengths if text]
    sample_size = min(len(documents), 2 + most // min(lengths[text] for text in documents)) if documents else 0
    mixed = []
    for number, (text, prompt) in enumerate(zip(texts, prompts, strict=True)):
        joined, total = [text] if text else [], lengths[text]
        length = draw.randint(min(total, most), most)
        for other in draw.sample(documents, sample_size):
            if other not in joined and total + lengths[other] <= length:
                joined.insert(draw.randint(0, len(joined)), other)
                total += lengths[other]
        if not joined:
            mixed.append(prompt)
            continue
        separate = is_chosen(number, spec.apart) and len(joined) > 1
        apart = tuple(map(prompter.knowledge, joined)) if separate else ()
        mixed.append(dataclasses.replace(prompt, knowledge=prompter.knowledge("\n".join(joined)), apart=apart))
    return mixed


def _exchange_some(prompts: list[Prompt], spec: DataSpec) -> list[Prompt]:
    """Give the spec's unrelated share of the prompts another prompt's knowledge."""
    if not spec.unrelated:
        return prompts
    partners = other_knowledge([prompt.knowledge for prompt in prompts])
    if partners is None:
        raise DataError(
            f"source {spec.source!r}: all examples have the same knowledge, so none can be given unrelated knowledge"
        )
    return [
        dataclasses.replace(prompt, knowledge=prompts[partner].knowledge, apart=prompts[partner].apart)
        if is_chosen(number, spec.unrelated)
        else prompt
        for number, (prompt, partner) in enumerate(zip(prompts, partners, strict=True))
    ]


def is_chosen(number: int, share: float) -> bool:
    """Tell whether an example belongs to a share of all examples that is spread evenly over them."""
    return int((number + 1) * share) > int(number * share)
