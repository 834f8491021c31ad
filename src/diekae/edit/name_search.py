"""Find names in a text: exactly, among many thousands, and nearly: misspelt, or with words left out.

Names and texts are compared as :mod:`diekae.edit.folding` folds them.
"""

from __future__ import annotations

import importlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from diekae.edit.folding import FoldedText, fold

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
    """Where names occur in a text: one, or several that are the same but for their spelling."""

    numbers: tuple[int, ...]
    """The names' numbers."""
    start: int
    """Its first character in the text."""
    end: int
    """The character after its last one."""

    @property
    def number(self) -> int:
        """Return the number of the first name."""
        return self.numbers[0]

    def is_outside(self, others: Iterable[NameMatch]) -> bool:
        """Return whether the match overlaps none of the others."""
        return all(self.end <= other.start or other.end <= self.start for other in others)

    def replaced(self, text: str, replacement: str) -> str:
        """Return the text with the name replaced."""
        return text[: self.start] + replacement + text[self.end :]


class ExactNames:
    """Finds names exactly, as whole words. Of names that overlap, the longest is found.

    Case and normal form may differ, but the text may only have more capitals than the name, never fewer: *OSLO* is
    *Oslo*, and *us* is not *US*. In scripts without blanks a name may stand anywhere.
    """

    def __init__(self, names: Sequence[str]) -> None:
        """Build the search; ModuleNotFoundError if ``ahocorasick-rs`` is not installed."""
        self._names = [fold(name) for name in names]
        numbers: dict[str, list[int]] = {}
        for number, name in enumerate(self._names):
            numbers.setdefault(name.folded, []).append(number)
        numbers.pop("", None)
        self._numbers = list(numbers.values())
        ahocorasick = _import("ahocorasick_rs", "ahocorasick-rs")
        self._search = ahocorasick.AhoCorasick(list(numbers), matchkind=ahocorasick.MatchKind.Standard)

    def find(self, text: str) -> list[NameMatch]:
        """Return matches that do not overlap, in the order of the text."""
        folded = fold(text)
        candidates = []
        for key, start, end in self._search.find_matches_as_indexes(folded.folded, overlapping=True):
            numbers = tuple(n for n in self._numbers[key] if _has_its_capitals(self._names[n], folded, start))
            span = folded.span(start, end)
            if numbers and span and folded.whole_words(start, end) == (start, end):
                candidates.append(NameMatch(numbers, *span))
        matches: list[NameMatch] = []
        for match in sorted(candidates, key=lambda match: (match.start - match.end, match.start)):
            if match.is_outside(matches):
                matches.append(match)
        return sorted(matches, key=lambda match: match.start)


def _has_its_capitals(name: FoldedText, text: FoldedText, start: int) -> bool:
    """Return whether a text has capitals where a name has them that occurs in it; other capitals do not count."""
    return all(
        text.text[text.starts[start + position]].isupper()
        for position, first in enumerate(name.starts)
        if name.text[first].isupper()
    )


class NearNames:
    """Finds names that nearly occur in a text. An index of trigrams selects the few names that are compared."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = [fold(name) for name in names]
        trigrams = [_trigrams(name) for name in self._names]
        index: dict[str, list[int]] = {}
        for number, grams in enumerate(trigrams):
            for gram in grams:
                index.setdefault(gram, []).append(number)
        self._index = {gram: np.array(numbers) for gram, numbers in index.items()}
        self._sizes = np.array([max(1, len(grams)) for grams in trigrams])

    def find(self, text: str) -> list[NameMatch]:
        """Return the names that nearly occur, the most similar first. An exact name is the most similar."""
        folded = fold(text)
        numbers = [self._index[gram] for gram in _trigrams(folded) if gram in self._index]
        if not numbers:
            return []
        shared = np.bincount(np.concatenate(numbers), minlength=len(self._names)) / self._sizes
        matches = []
        for number in np.flatnonzero(shared >= MIN_SHARED).tolist():
            name = self._names[number]
            part = _find_near(name, folded)
            if part is not None and (span := folded.span(*part)) is not None:
                matches.append((_ratio(name.folded, folded.folded[slice(*part)]), NameMatch((number,), *span)))
        return [match for _, match in sorted(matches, key=lambda pair: (-pair[0], pair[1].number))]


def _find_near(name: FoldedText, text: FoldedText) -> tuple[int, int] | None:
    """Return start and end of the words in a folded text that nearly are a name; None if there are none.

    Either some letters differ (case does not count, and digits must agree), or at least half of the name's letters
    occur, in whole words. The second does not count if the words belong to another name: *Danielle Steel* is not
    *Danielle Darrieux*.
    """
    fuzz = _import("rapidfuzz.fuzz", "rapidfuzz")
    alignment = fuzz.partial_ratio_alignment(name.folded, text.folded, score_cutoff=MIN_RATIO)
    if alignment is not None:
        cut = text.folded[alignment.dest_start : alignment.dest_end]
        start = alignment.dest_start + len(cut) - len(cut.lstrip())
        start, end = text.whole_words(start, start + len(cut.strip()))
        words = text.folded[start:end]
        if _ratio(name.folded, words) >= MIN_RATIO and re.findall(r"\d+", name.folded) == re.findall(r"\d+", words):
            return start, end
    return _find_shortened(name, text)


def _find_shortened(name: FoldedText, text: FoldedText) -> tuple[int, int] | None:
    """Return where neighbouring words of a name occur that are not part of another name."""
    words = {name.folded[slice(*word)] for word in name.words}
    letters = sum(end - start for start, end in name.words)
    best, run = None, list[tuple[int, int]]()
    for start, end in text.words:
        follows = run and text.folded[run[-1][1] : start].strip(" -.'’") == ""
        run = [*(run if follows else []), (start, end)] if text.folded[start:end] in words else []
        lengths = [stop - begin for begin, stop in run]
        size = sum(lengths)
        if run and max(lengths) > 3 and 2 * size >= letters and (best is None or size > best[0]):
            best = size, run[0][0], run[-1][1]
    if best is None or (span := text.span(*best[1:])) is None or _belongs_to_another(text.text, *span):
        return None
    return best[1:]


def _belongs_to_another(text: str, start: int, end: int) -> bool:
    """Return whether a capitalised word or a number is next to a span, other than a word that opens a sentence."""
    after = re.match(r" \W?(\w)", text[end:])
    before = re.search(r"(\w\S*\w|\w) $", unicodedata.normalize("NFC", text[:start]))
    return bool(
        (after and _may_be_of_name(after[1]))
        or (before and _may_be_of_name(before[1]) and before[1].casefold() not in OPENING_WORDS)
    )


def _may_be_of_name(word: str) -> bool:
    return word[0].isupper() or word[0].isdigit()


def _trigrams(text: FoldedText) -> set[str]:
    return {text.folded[start : start + 3] for start in range(len(text.folded) - 2)}


def _ratio(name: str, words: str) -> float:
    return float(_import("rapidfuzz.fuzz", "rapidfuzz").ratio(name, words))


def _import(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"editing needs {package}: run `pip install 'diekae[editing]'`") from error
