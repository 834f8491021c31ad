"""The manifest of a folder: size and SHA-256 digest of each file, written last.

A folder whose files are not those of its manifest was interrupted while it was written, or damaged later.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from diekae.files import write_atomically

MANIFEST_NAME = "manifest.json"


def write_manifest(folder: Path) -> None:
    """Describe all files of a folder; call it after the last of them is written.

    Raises:
        OSError: The disk is full, or the folder is not writable.
    """
    files = {path.name: _describe(path) for path in sorted(folder.iterdir()) if path.name != MANIFEST_NAME}
    write_atomically(folder / MANIFEST_NAME, json.dumps({"files": files}, indent=2) + "\n")


def matches_manifest(folder: Path) -> bool:
    """Tell whether a folder has a manifest, and every file in it is the one that was written."""
    try:
        files = json.loads((folder / MANIFEST_NAME).read_text())["files"]
        # Sizes first: they find most incomplete folders without reading their files.
        return all((folder / name).stat().st_size == values["bytes"] for name, values in files.items()) and all(
            _describe(folder / name) == values for name, values in files.items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False


def _describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
