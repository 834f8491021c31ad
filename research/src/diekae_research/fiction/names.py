"""Invented names.

A hash of an invented word decides to which split it belongs. So no name of one split occurs in another, whatever the
seeds and sizes, and no list of names has to be stored or compared.
"""

from __future__ import annotations

import hashlib
import random
from typing import Literal

from diekae.data.example import Split
from diekae_research.fiction.shared import SHARED


def split_of(word: str) -> Split:
    """Return the split that an invented word belongs to: 80 % train, 10 % validation, 10 % test."""
    bucket = int.from_bytes(hashlib.sha256(word.lower().encode()).digest()[:8], "big") % 10
    return "train" if bucket < 8 else "validation" if bucket == 8 else "test"


class NameMaker:
    """Makes names of one split for one document."""

    def __init__(self, split: Split, rng: random.Random) -> None:
        """Make names of `split` with `rng`."""
        self.split = split
        self.rng = rng
        self._used_words: set[str] = set()

    def word(self, endings: Literal["surname", "town", "thing"]) -> str:
        """Return an invented, capitalised word that this object has not returned before."""
        syllables = SHARED["syllables"]
        parts = (syllables["onsets"], syllables["vowels"], syllables["medials"], SHARED["endings"][endings])
        while True:
            word = "".join(self.rng.choice(part) for part in parts)
            if word not in self._used_words and split_of(word) == self.split and not _is_rejected(word.lower()):
                self._used_words.add(word)
                return word

    def person(self) -> str:
        """Return the name of a person: a usual first name and an invented surname."""
        surname = self.word("surname")
        first_names = SHARED["first_names"]["female" if self.rng.random() < 0.5 else "male"]
        return f"{self.rng.choice(first_names)} {surname}"


def _is_rejected(word: str) -> bool:
    rejected = SHARED["rejected"]
    return word in rejected["existing"] or any(part in word for part in rejected["parts"])
