"""Cells: one measurement each, kept as a file, so that an interrupted table continues where it stopped.

A digest of everything that a result depends on names its file: settings, versions, source code and machine. A change
of any of them leads to another file, so no outdated result is read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from diekae.data.prompt import Prompt
from diekae.fingerprint import fingerprint
from diekae.training.checkpoints import last_whole_checkpoint
from diekae_research.provenance import key_of, write_json

LAYOUT = 2
"""Version of the results' form. Raise it whenever a result holds something else, so that older files are not read."""
Result = dict[str, Any]
"""JSON values."""


@dataclass(frozen=True)
class Cell:
    """One measurement."""

    name: str
    """Shown to the user and part of the file's name: ``augment-lora``."""
    settings: Mapping[str, Any]
    """All that the result depends on, as JSON values."""
    measure: Callable[[], Result]
    """Computes the result."""

    @property
    def key(self) -> str:
        """Return the digest of the settings, the code, the versions and the machine."""
        return key_of({**self.settings, "layout": LAYOUT})


class Cells:
    """The cells of one folder."""

    def __init__(self, folder: Path) -> None:
        """Name the folder; the first result creates it."""
        self.folder = folder

    def path(self, cell: Cell) -> Path:
        """Return the path of a cell's result, whether or not it exists."""
        return self.folder / f"{cell.name}-{cell.key}.json"

    def find(self, cell: Cell) -> Result | None:
        """Return a result that was measured before; None if no readable one exists."""
        try:
            result: Result = json.loads(self.path(cell).read_text())["result"]
        except (OSError, ValueError, KeyError):
            return None
        return result

    def get(self, cell: Cell) -> Result:
        """Return a cell's result, and measure it first if it was not measured before."""
        result = self.find(cell)
        if result is None:
            result = cell.measure()
            write_json(self.path(cell), {"name": cell.name, "settings": dict(cell.settings), "result": result})
        return result


def decoder_settings(decoder: PreTrainedModel) -> dict[str, Any]:
    """Return what every measurement of a decoder depends on."""
    return {"decoder": fingerprint(decoder), "dtype": str(decoder.dtype), "device": decoder.device.type}


def digest_prompts(prompts: Sequence[Prompt]) -> str:
    """Return a short digest of prompts in their order."""
    digest = hashlib.sha256()
    for prompt in prompts:
        digest.update(repr(dataclasses.astuple(prompt)).encode())
    return digest.hexdigest()[:12]


def read_log(folder: Path) -> list[dict[str, float]]:
    """Return the training log from the last checkpoint in a folder; empty for a method that is not trained."""
    checkpoint = last_whole_checkpoint(folder)
    if checkpoint is None:
        return []
    log: list[dict[str, float]] = json.loads((Path(checkpoint) / "trainer_state.json").read_text())["log_history"]
    return log
