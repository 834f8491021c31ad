"""The gate: which edits, if any, speak to an input. Shut, the decoder's output is the bare one bit for bit.

A gate sees texts alone, so padding, batches and formats cannot change what it decides.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from diekae.editing.edit import Edit

Vectors = NDArray[np.float32]
Progress = Callable[[str, int, int], None]
MOST = 4
"""Edits that speak to one input at most."""


class Entry(NamedTuple):
    """A live edit, as a gate is told of it."""

    id: int
    """Its number in the store; the newer of two edits has the greater one."""
    edit: Edit
    """What is edited."""
    vector: Vectors
    """What :meth:`Gate.encode` made of its prompt, [width]."""


class Gate(ABC):
    """Decides by the input which of the edits that it was told of speak."""

    name: str
    """For messages and results."""
    width: int = 0
    """Numbers that the gate keeps of an edit."""

    @property
    def fingerprint(self) -> str:
        """Return what names the gate's vectors: they are made anew for another one."""
        return self.name

    def encode(self, prompts: Sequence[str], progress: Progress = lambda _what, _done, _all: None) -> Vectors:  # noqa: ARG002
        """Return what is kept of each edit's prompt, [prompts, width]."""
        return np.zeros((len(prompts), 0), np.float32)

    @abstractmethod
    def tell(self, entries: Sequence[Entry]) -> None:
        """Take these edits in place of those told before."""

    @abstractmethod
    def open(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of the edits that speak to each text, the most apt first; an empty list keeps it shut."""

    def forget(self) -> None:  # noqa: B027 - most gates keep nothing
        """Forget what was read of inputs, as before a measurement of time."""

    def conflicts(self, entry: Entry, others: Sequence[Entry]) -> list[int]:  # noqa: ARG002
        """Return the ids of others that say something else of the same fact, as far as the gate knows."""
        return []


class MentionGate(Gate):
    """Opens where a subject or one of its aliases is mentioned, letter for letter and as whole words (Aho–Corasick).

    It cannot tell several facts of one subject apart: all speak, the newest first.
    """

    name = "mention"

    def __init__(self) -> None:
        """Start without edits.

        Raises:
            ModuleNotFoundError: ``ahocorasick-rs`` is not installed.
        """
        self._names: list[str] = []
        self._ids: list[list[int]] = []
        self._search = _automaton([])

    def tell(self, entries: Sequence[Entry]) -> None:
        """See :meth:`Gate.tell`."""
        found: dict[str, list[int]] = {}
        for entry in entries:
            for name in dict.fromkeys(entry.edit.names):
                found.setdefault(name.strip(), []).append(entry.id)
        self._names, self._ids = list(found), [sorted(ids, reverse=True) for ids in found.values()]
        self._search = _automaton(self._names)

    def mentioned(self, text: str) -> list[list[int]]:
        """Return the edits of each name that is mentioned, in the order of the text; a name inside a longer is none."""
        spans = [span for span in self._search(text) if _whole(text, span[1], span[2])]
        kept: list[tuple[int, int, int]] = []
        for which, start, end in sorted(spans, key=lambda span: (span[1] - span[2], span[1])):
            if all(end <= other[1] or other[2] <= start for other in kept):
                kept.append((which, start, end))
        return [self._ids[which] for which, _, _ in sorted(kept, key=lambda span: span[1])]

    def open(self, texts: Sequence[str]) -> list[list[int]]:
        """See :meth:`Gate.open`."""
        return [list(dict.fromkeys(i for ids in self.mentioned(text) for i in ids))[:MOST] for text in texts]


def _automaton(names: Sequence[str]) -> Callable[[str], list[tuple[int, int, int]]]:
    """Return a search for all places of all names: (which name, first character, behind the last)."""
    try:
        from ahocorasick_rs import AhoCorasick, MatchKind
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("editing needs ahocorasick-rs: run `pip install 'diekae[editing]'`") from error
    built = AhoCorasick(list(names), matchkind=MatchKind.Standard)
    return lambda text: built.find_matches_as_indexes(text, overlapping=True)


def _whole(text: str, start: int, end: int) -> bool:
    """Tell whether a place begins and ends with words."""
    inside = start > 0 and text[start - 1].isalnum() and text[start].isalnum()
    return not inside and not (end < len(text) and text[end].isalnum() and text[end - 1].isalnum())
