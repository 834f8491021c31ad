"""Find names in a text: exactly, among many thousands, and nearly: misspelt, or with words left out."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

MIN_RATIO = 82.0
"""Smallest similarity of a misspelt name, in per cent: twice the letters that agree over the letters of both."""
MIN_SHARED = 0.34
"""Smallest share of a name's trigrams that occur in a text, for the name to be compared with the text at all."""

OPENING_WORDS = frozenset(
    "a an and are as at but by did do does for from had has have how in is it of on or that the these this those to "
    "was were what when where which who whom whose why with".split()
)
"""Words that are often capitalised only because they open a sentence."""


class NameMatch(NamedTuple):
    """A name that occurs in a text."""

    number: int
    """The name's number."""
    start: int
    """Its first character in the text."""
    end: int
    """The character after its last one."""

    def is_outside(self, others: Iterable[NameMatch]) -> bool:
        """Return whether the match overlaps none of the others."""
        return all(self.end <= other.start or other.end <= self.start for other in others)

    def replaced(self, text: str, replacement: str) -> str:
        """Return the text with the name replaced."""
        return text[: self.start] + replacement + text[self.end :]


class ExactNames:
    """Finds names exactly, as whole words. Of names that overlap, the longest is found."""

    def __init__(self, names: Sequence[str]) -> None:
        """Build the search.

        Raises:
            ModuleNotFoundError: ``ahocorasick-rs`` is not installed.
        """
        ahocorasick = _import("ahocorasick_rs", "ahocorasick-rs")
        self._search = ahocorasick.AhoCorasick(list(names), matchkind=ahocorasick.MatchKind.Standard)

    def find(self, text: str) -> list[NameMatch]:
        """Return matches that do not overlap, in the order of the text."""
        candidates = [NameMatch(*match) for match in self._search.find_matches_as_indexes(text, overlapping=True)]
        matches: list[NameMatch] = []
        for match in sorted(candidates, key=lambda match: (match.start - match.end, match.start)):
            span = match.start, match.end
            if match.is_outside(matches) and span == _whole_words(text, *span):
                matches.append(match)
        return sorted(matches, key=lambda match: match.start)


class NearNames:
    """Finds names that nearly occur in a text. An index of trigrams selects the few names that are compared."""

    def __init__(self, names: Sequence[str]) -> None:
        """Build the index."""
        self.names = list(names)
        trigrams = [_trigrams(name) for name in self.names]
        index: dict[str, list[int]] = {}
        for number, grams in enumerate(trigrams):
            for gram in grams:
                index.setdefault(gram, []).append(number)
        self._index = {gram: np.array(numbers) for gram, numbers in index.items()}
        self._sizes = np.array([max(1, len(grams)) for grams in trigrams])

    def find(self, text: str) -> list[NameMatch]:
        """Return the names that nearly occur, the most similar first. An exact name is the most similar."""
        numbers = [self._index[gram] for gram in _trigrams(text) if gram in self._index]
        if not numbers:
            return []
        shared = np.bincount(np.concatenate(numbers), minlength=len(self.names)) / self._sizes
        matches = []
        for number in np.flatnonzero(shared >= MIN_SHARED).tolist():
            span = find_near(self.names[number], text)
            if span is not None:
                ratio = _ratio(self.names[number], text[slice(*span)])
                matches.append((ratio, NameMatch(number, *span)))
        return [match for _, match in sorted(matches, key=lambda pair: (-pair[0], pair[1].number))]


def find_near(name: str, text: str) -> tuple[int, int] | None:
    """Return start and end of the words in a text that nearly are a name; None if there are none.

    Either some letters differ (case does not count, and digits must agree), or at least half of the name's letters
    occur, in whole words. The second does not count if the words belong to another name: *Danielle Steel* is not
    *Danielle Darrieux*.
    """
    fuzz = _import("rapidfuzz.fuzz", "rapidfuzz")
    folded = text.casefold()
    if len(folded) != len(text):  # some letters fold into two, and positions would not be those of the text
        folded = text
    alignment = fuzz.partial_ratio_alignment(name.casefold(), folded, score_cutoff=MIN_RATIO)
    if alignment is not None:
        cut = folded[alignment.dest_start : alignment.dest_end]
        start = alignment.dest_start + len(cut) - len(cut.lstrip())
        start, end = _whole_words(folded, start, start + len(cut.strip()))
        words = text[start:end]
        if _ratio(name, words) >= MIN_RATIO and re.findall(r"\d+", name) == re.findall(r"\d+", words):
            return start, end
    return _find_shortened(name, text)


def _find_shortened(name: str, text: str) -> tuple[int, int] | None:
    """Return where neighbouring words of a name occur that are not part of another name."""
    words = re.findall(r"\w+", name)
    folded, letters = {word.casefold() for word in words}, sum(map(len, words))
    best, run = None, list[re.Match[str]]()
    for word in re.finditer(r"\w+", text):
        follows = run and text[run[-1].end() : word.start()].strip(" -.'’") == ""
        run = [*(run if follows else []), word] if word[0].casefold() in folded else []
        lengths = [len(match[0]) for match in run]
        size = sum(lengths)
        if run and max(lengths) > 3 and 2 * size >= letters and (best is None or size > best[0]):
            best = size, run[0].start(), run[-1].end()
    if best is None or _belongs_to_another(text, *best[1:]):
        return None
    return best[1:]


def _belongs_to_another(text: str, start: int, end: int) -> bool:
    """Return whether a capitalised word or a number is next to a span, other than a word that opens a sentence."""
    after = re.match(r" \W?(\w)", text[end:])
    before = re.search(r"(\w\S*\w|\w) $", text[:start])
    return bool(
        (after and _may_be_of_name(after[1]))
        or (before and _may_be_of_name(before[1]) and before[1].casefold() not in OPENING_WORDS)
    )


def _may_be_of_name(word: str) -> bool:
    return word[0].isupper() or word[0].isdigit()


def _whole_words(text: str, start: int, end: int) -> tuple[int, int]:
    """Widen a span to whole words."""
    while 0 < start < len(text) and text[start - 1].isalnum() and text[start].isalnum():
        start -= 1
    while 0 < end < len(text) and text[end - 1].isalnum() and text[end].isalnum():
        end += 1
    return start, end


def _trigrams(text: str) -> set[str]:
    folded = text.casefold()
    return {folded[n : n + 3] for n in range(len(folded) - 2)}


def _ratio(name: str, words: str) -> float:
    return float(_import("rapidfuzz.fuzz", "rapidfuzz").ratio(name.casefold(), words.casefold()))


def _import(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"editing needs {package}: run `pip install 'diekae[editing]'`") from error
