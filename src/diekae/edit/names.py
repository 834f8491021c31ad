"""Finding names in a text: to the letter among many thousands, and nearly, misspelt or with words left out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

SPELT = 82.0
"""Least likeness of a misspelt name in per cent: twice the letters that agree, over those of both."""
SHARED = 0.34
"""Share of a name's trigrams that must stand in a text before it is looked at."""

OPENING = frozenset(
    "a an and are as at but by did do does for from had has have how in is it of on or that the these this those to "
    "was were what when where which who whom whose why with".split()
)
"""Words that are capitalised for no other reason than that they open a sentence."""


class Place(NamedTuple):
    """Where a name stands in a text."""

    which: int
    """The name's number."""
    start: int
    """First character."""
    end: int
    """Behind the last."""

    def apart(self, others: Iterable[Place]) -> bool:
        """Tell whether it lies over none of the others."""
        return all(self.end <= other.start or other.end <= self.start for other in others)

    def replaced(self, text: str, other: str) -> str:
        """Return the text with something else in the name's place."""
        return text[: self.start] + other + text[self.end :]


class ExactNames:
    """Finds names letter for letter, as whole words; of names within each other the longest."""

    def __init__(self, names: Sequence[str]) -> None:
        """Build the search.

        Raises:
            ModuleNotFoundError: ``ahocorasick-rs`` is not installed.
        """
        ahocorasick = _needed("ahocorasick_rs", "ahocorasick-rs")
        self._search = ahocorasick.AhoCorasick(list(names), matchkind=ahocorasick.MatchKind.Standard)

    def find(self, text: str) -> list[Place]:
        """Return the places of names, none over another, in the order of the text."""
        found = [Place(*place) for place in self._search.find_matches_as_indexes(text, overlapping=True)]
        kept: list[Place] = []
        for place in sorted(found, key=lambda place: (place.start - place.end, place.start)):
            if place.apart(kept) and _whole(text, place.start, place.end):
                kept.append(place)
        return sorted(kept, key=lambda place: place.start)


class NearNames:
    """Finds names that a text nearly holds: an index of their trigrams names the few that are then compared."""

    def __init__(self, names: Sequence[str]) -> None:
        """Build the index."""
        self.names = list(names)
        grams = [_trigrams(name) for name in self.names]
        found: dict[str, list[int]] = {}
        for number, own in enumerate(grams):
            for gram in own:
                found.setdefault(gram, []).append(number)
        self._holding = {gram: np.array(numbers) for gram, numbers in found.items()}
        self._sizes = np.array([max(1, len(own)) for own in grams])

    def find(self, text: str) -> list[Place]:
        """Return where names nearly stand, the likest first; a name to the letter is the likest."""
        there = [self._holding[gram] for gram in _trigrams(text) if gram in self._holding]
        if not there:
            return []
        shares = np.bincount(np.concatenate(there), minlength=len(self.names)) / self._sizes
        found = []
        for number in np.flatnonzero(shares >= SHARED).tolist():
            span = near(self.names[number], text)
            if span is not None:
                found.append((_ratio(self.names[number], text[slice(*span)]), Place(number, *span)))
        return [place for _, place in sorted(found, key=lambda one: (-one[0], one[1].which))]


def near(name: str, text: str) -> tuple[int, int] | None:
    """Return where a text nearly holds a name, in whole words; None where it does not.

    Some letters differ, whatever their case, but no digit; or only half of it or more stands there in words of its own;
    unless what stands beside them belongs to another name: for *Danielle Darrieux*, *Danielle Steel* is somebody else.
    """
    fuzz = _needed("rapidfuzz.fuzz", "rapidfuzz")
    lower, whole = name.casefold(), text.casefold()
    if len(whole) != len(text):  # some letters fold into two, and places would no longer be those of the text
        whole = text
    place = fuzz.partial_ratio_alignment(lower, whole, score_cutoff=SPELT)
    if place is not None:
        cut = whole[place.dest_start : place.dest_end]
        start = place.dest_start + len(cut) - len(cut.lstrip())
        start, end = _widened(whole, start, start + len(cut.strip()))
        if _ratio(name, text[start:end]) >= SPELT and _numbers(name) == _numbers(text[start:end]):
            return start, end
    return _shortened(name, text)


def _shortened(name: str, text: str) -> tuple[int, int] | None:
    """Return where words of a name stand next to each other and nothing of another name beside them."""
    words = re.findall(r"\w+", name)
    own, letters = {word.casefold() for word in words}, sum(map(len, words))
    best, run = None, list[re.Match[str]]()
    for word in re.finditer(r"\w+", text):
        behind = run and text[run[-1].end() : word.start()].strip(" -.'’") == ""
        run = [*(run if behind else []), word] if word[0].casefold() in own else []
        size = sum(len(one[0]) for one in run)
        if run and max(len(one[0]) for one in run) > 3 and 2 * size >= letters and (best is None or size > best[0]):
            best = size, run[0].start(), run[-1].end()
    if best is None or _belongs_to_another(text, *best[1:]):
        return None
    return best[1:]


def _belongs_to_another(text: str, start: int, end: int) -> bool:
    """Tell whether a capitalised word or a number stands beside a place; words that open a sentence are none."""
    after = re.match(r" \W?(\w)", text[end:])
    before = re.search(r"(\w\S*\w|\w) $", text[:start])
    return bool(
        (after and _is_of_a_name(after[1]))
        or (before and _is_of_a_name(before[1]) and before[1].casefold() not in OPENING)
    )


def _numbers(text: str) -> list[str]:
    return re.findall(r"\d+", text)


def _is_of_a_name(word: str) -> bool:
    return word[0].isupper() or word[0].isdigit()


def _whole(text: str, start: int, end: int) -> bool:
    """Tell whether a place begins and ends with words."""
    return (start, end) == _widened(text, start, end)


def _widened(text: str, start: int, end: int) -> tuple[int, int]:
    """Widen a place to whole words."""
    while 0 < start < len(text) and text[start - 1].isalnum() and text[start].isalnum():
        start -= 1
    while 0 < end < len(text) and text[end - 1].isalnum() and text[end].isalnum():
        end += 1
    return start, end


def _trigrams(text: str) -> set[str]:
    folded = text.casefold()
    return {folded[n : n + 3] for n in range(len(folded) - 2)}


def _ratio(name: str, words: str) -> float:
    return float(_needed("rapidfuzz.fuzz", "rapidfuzz").ratio(name.casefold(), words.casefold()))


def _needed(module: str, package: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"editing needs {package}: run `pip install 'diekae[editing]'`") from error
