"""The gate: decides which edits, if any, apply to an input. Where none does, the decoder's output is unchanged.

A gate sees only texts, so padding, batches and formats cannot change its decision.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from diekae.edit.edit import Edit
from diekae.edit.name_search import ExactNames
from diekae.progress import Progress, silent

Vectors = NDArray[np.float32]
MAX_EDITS = 4
"""Most edits that apply to one input."""


class GateEntry(NamedTuple):
    """A live edit, as a gate gets it."""

    id: int
    """Its number in the store. A newer edit has a greater number."""
    edit: Edit
    """The edit itself."""
    vector: Vectors
    """The result of :meth:`Gate.encode`, [width]."""


class Gate(ABC):
    """Decides which of its edits apply to an input.

    Threads may share a gate. :meth:`open` decides by all edits of one call of :meth:`set_edits`, never by a mixture.
    """

    name: str
    """For messages and results."""
    width: int = 0
    """Length of the vector that the gate stores with each edit."""

    @property
    def fingerprint(self) -> str:
        """Return the name under which the gate's vectors are stored; another gate computes its own."""
        return self.name

    def encode(self, edits: Sequence[Edit], progress: Progress = silent) -> Vectors:  # noqa: ARG002
        """Return the vector that is stored with each edit, [edits, width]."""
        return np.zeros((len(edits), 0), np.float32)

    @abstractmethod
    def set_edits(self, entries: Sequence[GateEntry]) -> None:
        """Replace all edits of the gate by these."""

    @abstractmethod
    def open(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of the edits that apply to each text, the best match first; empty where none applies."""

    def to(self, device: torch.device) -> None:  # noqa: B027 - most gates have no tensors
        """Move the gate to another device."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(width {self.width})"

    def conflicts(self, entry: GateEntry, others: Sequence[GateEntry]) -> list[int]:  # noqa: ARG002
        """Return the ids of the others that give the same fact another target, as far as the gate can tell."""
        return []


class MentionGate(Gate):
    """Opens where a subject or one of its aliases occurs (Aho–Corasick); see :class:`ExactNames` for what may differ.

    It cannot tell several facts of one subject apart: all of them apply, the newest first.
    """

    name = "mention"

    def __init__(self) -> None:
        """Start without edits; ModuleNotFoundError if ``ahocorasick-rs`` is not installed."""
        self.set_edits([])

    def set_edits(self, entries: Sequence[GateEntry]) -> None:
        """See :meth:`Gate.set_edits`."""
        groups = by_name(entries)
        ids = [[entry.id for entry in group] for group in groups.values()]
        # One assignment: a thread that opens the gate meanwhile sees the names and ids of the same edits.
        self._edits = ExactNames(list(groups)), ids

    def open(self, texts: Sequence[str]) -> list[list[int]]:
        """See :meth:`Gate.open`. The edits of the first name in the text come first."""
        names, ids_of_names = self._edits
        rows: list[list[int]] = []
        for text in texts:
            matches = [{id for number in match.numbers for id in ids_of_names[number]} for match in names.find(text)]
            ids = [id for match in matches for id in sorted(match, reverse=True)]
            rows.append(list(dict.fromkeys(ids))[:MAX_EDITS])
        return rows


def by_name(entries: Sequence[GateEntry]) -> dict[str, list[GateEntry]]:
    """Group edits by subject and alias."""
    groups: dict[str, list[GateEntry]] = {}
    for entry in entries:
        for name in dict.fromkeys(name.strip() for name in entry.edit.names):
            groups.setdefault(name, []).append(entry)
    return groups
