"""The card of a data set: licence, upstream files, expected number of examples, and options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from diekae.data.example import DataError
from diekae.fields import did_you_mean

Counts = tuple[int, int, int]
"""Examples in train, validation and test."""
Value = bool | int
"""Value of an option."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """One file as its publisher offers it."""

    path: str
    """Its path below the data set's folder."""
    url: str
    """Its address."""
    sha256: str | None = None
    """Its checksum; ``None`` if it is unknown."""
    inner: str | None = None
    """For an archive: the folder inside it whose content is unpacked into the data set's folder; ``""`` for all."""


@dataclass(frozen=True, slots=True)
class Option:
    """An option of a data set; its name is its key in `Card.options`."""

    default: Value
    """The default; its type is the option's type."""
    help: str
    """What it does."""
    counts: Counts | None = None
    """Examples of the full data set with this option alone set, leaking ones included; ``None`` if unknown."""


@dataclass(frozen=True, slots=True)
class Card:
    """What is known of a data set before any of its files is read."""

    title: str
    """Its name and its paper."""
    licence: str
    """As its publisher states it."""
    homepage: str
    """An address to read more; empty if there is none."""
    origin: str
    """Where its files come from, in words that can follow "from"."""
    upstream: tuple[Upstream, ...] = ()
    """The files that `diekae-research data download` fetches."""
    paper: Counts | None = None
    """The paper's counts (appendix C), leaking examples included; ``None`` for a set that it does not use."""
    labels: tuple[str, ...] = ()
    """The classes of a classification set."""
    options: Mapping[str, Option] = field(default_factory=dict)
    """Its options, besides `COMMON`."""
    note: str = ""
    """Why counts may differ from the paper's, in a sentence."""


COMMON: Mapping[str, Option] = {
    "paper_marks": Option(False, "[SEP] between documents, joined into one; [USR] and [SYS] around every input"),
}
"""The options of every data set."""


def expected_counts(card: Card, options: Mapping[str, Value]) -> Counts | None:
    """Return the counts of the full data set under `options`; ``None`` if they are unknown."""
    changed = [name for name, value in options.items() if name in card.options and value != card.options[name].default]
    if not changed:
        return card.paper
    return card.options[changed[0]].counts if len(changed) == 1 else None


def settle_options(source: str, card: Card, values: Mapping[str, object]) -> dict[str, Value]:
    """Return a value for every option: the given one, or the default. A value may be a text.

    Raises:
        DataError: An option is unknown, or its value is of another type.
    """
    known = {**card.options, **COMMON}
    settled = {name: option.default for name, option in known.items()}
    for name, value in values.items():
        if name not in known:
            raise DataError(
                f"source {source!r} has no option {name!r}; it has {', '.join(known)}.{did_you_mean(name, list(known))}"
            )
        settled[name] = _parse(f"option {name} of source {source!r}", value, known[name].default)
    return settled


def _parse(what: str, value: object, default: Value) -> Value:
    if isinstance(default, bool):
        parsed = {"true": True, "false": False}.get(str(value).lower())
        if parsed is None:
            raise DataError(f"{what} is {value!r}; expected true or false")
        return parsed
    try:
        return int(str(value))
    except ValueError as error:
        raise DataError(f"{what} is {value!r}; expected a whole number, as {default}") from error
