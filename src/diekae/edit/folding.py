"""Folded texts: what a text is compared by, so that spellings of one name match.

Case, width and Unicode normal form are left out, as are invisible characters: *İSTANBUL* folds to *istanbul*, and an é
of two characters to the é of one. Accents stay, because they distinguish names. Each folded character knows which
characters of the text it comes from.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

_VARIATION = re.compile("[\u034f\ufe00-\ufe0f\U000e0100-\U000e01ef]")
"""Variation selectors, and the joiner that only affects sorting: marks that are not seen."""
_UNSPACED_SCRIPTS = frozenset(
    "BALINESE BOPOMOFO CJK HANGUL HIRAGANA IDEOGRAPHIC JAVANESE KATAKANA KATAKANA-HIRAGANA KHMER LAO MYANMAR TAI THAI "
    "TIBETAN YI".split()
)
"""Scripts without blanks between words, and Korean, whose particles follow a noun directly; by the first word of a
character's Unicode name."""


@dataclass(frozen=True, eq=False)
class FoldedText:
    """A text and its folded form."""

    text: str
    """The text itself."""
    folded: str
    """The text without case, width, normal form and invisible characters."""
    starts: Sequence[int]
    """For each folded character, the position of the first character in the text that it comes from."""
    ends: Sequence[int]
    """For each folded character, the position after the last one."""

    def span(self, start: int, end: int) -> tuple[int, int] | None:
        """Return the part of the text that ``folded[start:end]`` comes from; None if it cuts a character in two."""
        cut_before = 0 < start < len(self.folded) and self.starts[start - 1] == self.starts[start]
        cut_after = 0 < end < len(self.folded) and self.starts[end - 1] == self.starts[end]
        return None if cut_before or cut_after or start >= end else (self.starts[start], self.ends[end - 1])

    def whole_words(self, start: int, end: int) -> tuple[int, int]:
        """Widen a part of the folded text to whole words."""
        while 0 < start < len(self.folded) and _is_inside_word(self.folded[start - 1], self.folded[start]):
            start -= 1
        while 0 < end < len(self.folded) and _is_inside_word(self.folded[end - 1], self.folded[end]):
            end += 1
        return start, end

    @cached_property
    def words(self) -> list[tuple[int, int]]:
        """Return start and end of each word of the folded text; a run of an unspaced script counts as one word."""
        words: list[tuple[int, int]] = []
        for position, character in enumerate(self.folded):
            if _is_of_word(character) or character == "_":
                follows = words and words[-1][1] == position
                start = words.pop()[0] if follows else position
                words.append((start, position + 1))
        return words


def fold(text: str) -> FoldedText:
    """Return a text with its folded form."""
    if text.isascii():
        positions = range(len(text) + 1)
        return FoldedText(text, re.sub(r"\s", " ", text.lower()), positions[:-1], positions[1:])
    folded, starts, ends = list[str](), list[int](), list[int]()
    for start, end in _clusters(text):
        part = _fold_cluster(text[start:end])
        folded.append(part)
        starts += [start] * len(part)
        ends += [end] * len(part)
    return FoldedText(text, "".join(folded), starts, ends)


def _clusters(text: str) -> Iterator[tuple[int, int]]:
    """Yield start and end of each character together with the marks that change it."""
    start = 0
    for position in range(1, len(text) + 1):
        if position == len(text) or not _continues(text[position]):
            yield start, position
            start = position


@lru_cache(maxsize=4096)
def _continues(character: str) -> bool:
    """Return whether a character changes the one before it: a mark, an invisible one, or a later part of a syllable."""
    later_of_syllable = "\u1160" <= character <= "\u11ff" or character in "\uff9e\uff9f"
    return later_of_syllable or unicodedata.category(character)[0] == "M" or unicodedata.category(character) == "Cf"


@lru_cache(maxsize=4096)
def _fold_cluster(cluster: str) -> str:
    visible = "".join(c for c in cluster if unicodedata.category(c) != "Cf" and not _VARIATION.match(c))
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", visible).casefold())
    # Capitals of the Turkish i and ı are İ, which folds to an i with a second dot, and I.
    return " " if folded.isspace() else folded.replace("i\u0307", "i").replace("ı", "i")


def _is_inside_word(left: str, right: str) -> bool:
    """Return whether two neighbouring characters belong to one word."""
    return _is_of_word(left) and _is_of_word(right) and not _is_unspaced(left) and not _is_unspaced(right)


@lru_cache(maxsize=4096)
def _is_of_word(character: str) -> bool:
    return character.isalnum() or unicodedata.category(character)[0] == "M"


@lru_cache(maxsize=4096)
def _is_unspaced(character: str) -> bool:
    return unicodedata.name(character, "").partition(" ")[0] in _UNSPACED_SCRIPTS
