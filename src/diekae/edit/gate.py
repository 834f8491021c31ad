"""The gate: which edits, if any, speak to an input. Shut, the decoder's output is the bare one bit for bit.

A gate sees texts alone, so padding, batches and formats cannot change what it decides.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from diekae.edit.edit import Edit
from diekae.edit.names import ExactNames
from diekae.progress import Progress, silent

Vectors = NDArray[np.float32]
MOST = 4
"""Edits that speak to one input at most."""


class Entry(NamedTuple):
    """A live edit, as a gate is told of it."""

    id: int
    """Its number in the store; the newer of two edits has the greater one."""
    edit: Edit
    """What is edited."""
    vector: Vectors
    """What :meth:`Gate.encode` made of it, [width]."""


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

    def encode(self, edits: Sequence[Edit], progress: Progress = silent) -> Vectors:  # noqa: ARG002
        """Return what is kept of each edit, [edits, width]."""
        return np.zeros((len(edits), 0), np.float32)

    @abstractmethod
    def tell(self, entries: Sequence[Entry]) -> None:
        """Take these edits in place of those told before."""

    @abstractmethod
    def open(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of the edits that speak to each text, the most apt first; an empty list keeps it shut."""

    def forget(self) -> None:  # noqa: B027 - most gates keep nothing
        """Forget what was read of inputs, as before a measurement of time."""

    def to(self, device: torch.device) -> None:  # noqa: B027 - most keep nothing on a device
        """Follow the model to another device."""

    def __repr__(self) -> str:
        """Name the gate and the size of what it keeps of an edit."""
        return f"{type(self).__name__}(width {self.width})"

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
        self.tell([])

    def tell(self, entries: Sequence[Entry]) -> None:
        """See :meth:`Gate.tell`."""
        found = by_name(entries)
        self._ids = [sorted((entry.id for entry in group), reverse=True) for group in found.values()]
        self._names = ExactNames(list(found))

    def open(self, texts: Sequence[str]) -> list[list[int]]:
        """See :meth:`Gate.open`; the first that is mentioned speaks first."""
        ids = [[number for place in self._names.find(text) for number in self._ids[place.which]] for text in texts]
        return [list(dict.fromkeys(row))[:MOST] for row in ids]


def by_name(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """Return the edits of each subject and alias."""
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        for name in dict.fromkeys(name.strip() for name in entry.edit.names):
            found.setdefault(name, []).append(entry)
    return found
