"""Cells: one measurement each, kept as a file, so that a table that was cut off goes on where it stopped.

A cell's file is named by a digest of everything that its result depends on: its settings, the library's version and
source, the packages beneath, and the machine. What changes leads to another name, so a stale result is never read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diekae.data.prompt import Prompt
from diekae_research.provenance import key_of, write_json

LAYOUT = 2
"""Raised whenever a cell's result holds something else, so that older files are not read any more."""
Result = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One measurement: what it depends on, about how much work it is, and how it is done."""

    name: str
    """For the display and the file: ``table1-lora``."""
    settings: Mapping[str, Any]
    """All that the result depends on, as JSON values."""
    work: float
    """Tokens through the decoder, forward, that the measurement is worth; for the estimate alone."""
    measure: Callable[[], Result]
    """Makes the result, as JSON values."""

    @property
    def key(self) -> str:
        """Return the digest of the settings and of what measures."""
        return key_of({**self.settings, "layout": LAYOUT})


class Cells:
    """The cells of one folder."""

    def __init__(self, folder: Path) -> None:
        """Name the folder; it is made when the first cell is written."""
        self.folder = folder
        self.seconds: dict[str, float] = {}
        """Seconds of each cell that was measured in this process, by file name."""

    def path(self, cell: Cell) -> Path:
        """Return where a cell's result lies, or will lie."""
        return self.folder / f"{cell.name}-{cell.key}.json"

    def find(self, cell: Cell) -> Result | None:
        """Return a result that was measured before; None if there is none that can be read."""
        try:
            found: Result = json.loads(self.path(cell).read_text())["result"]
        except (OSError, ValueError, KeyError):
            return None
        return found

    def get(self, cell: Cell) -> Result:
        """Return a cell's result, measured now if it was not before."""
        found = self.find(cell)
        if found is None:
            start = time.perf_counter()
            found = cell.measure()
            self.seconds[self.path(cell).name] = time.perf_counter() - start
            write_json(self.path(cell), {"name": cell.name, "settings": dict(cell.settings), "result": found})
        return found


def digest_prompts(prompts: Sequence[Prompt]) -> str:
    """Return a short digest of prompts in their order."""
    found = hashlib.sha256()
    for prompt in prompts:
        found.update(repr(dataclasses.astuple(prompt)).encode())
    return found.hexdigest()[:12]
