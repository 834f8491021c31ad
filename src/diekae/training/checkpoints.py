"""The Trainer's checkpoints: which of them are whole, and which is the best.

A checkpoint's manifest holds the size and SHA-256 digest of each of its files, and is written last. A folder whose
files are not those of its manifest was interrupted while it was written, or damaged later.
"""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import TrainerState

from diekae.files import sha256_of, write_atomically

MANIFEST_NAME = "manifest.json"


def last_whole_checkpoint(folder: Path) -> str | None:
    """Return the newest checkpoint that was written completely and is not damaged.

    Newer ones are left in place, with a warning: the resumed run writes them again at the same steps.
    """
    steps = {path.name.removeprefix("checkpoint-"): path for path in folder.glob("checkpoint-*")}
    newest_first = [steps[step] for step in sorted(filter(str.isdigit, steps), key=int, reverse=True)]
    whole = next((path for path in newest_first if matches_manifest(path)), None)
    skipped = newest_first if whole is None else newest_first[: newest_first.index(whole)]
    if skipped:
        warnings.warn(
            f"{str(folder)!r}: {', '.join(path.name for path in skipped)} cannot be used: the files are incomplete or "
            "damaged, or were written by an older version without a manifest; "
            f"{'there is no whole checkpoint' if whole is None else f'continuing from {whole.name}'}.",
            stacklevel=2,
        )
    return None if whole is None else str(whole)


def find_best(state: TrainerState, folder: Path) -> bool:
    """Look for the best checkpoint in the run's folder, which may have been moved, and note its path in the state.

    Return False if it is missing or damaged. The Trainer would only warn about a missing path, and leave the bank
    untrained.
    """
    if state.best_model_checkpoint is None and not state.best_global_step:
        return True
    # The Trainer drops a path that does not exist here, but not the step.
    best = folder / Path(state.best_model_checkpoint or f"checkpoint-{state.best_global_step}").name
    if not matches_manifest(best):
        return False
    state.best_model_checkpoint = str(best)
    return True


@contextmanager
def checkpoint_errors(folder: Path) -> Iterator[None]:
    """Replace the errors of torch and safetensors while a checkpoint is written by an OSError that names the folder."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        raise OSError(
            f"the checkpoint {str(folder)!r} cannot be written ({str(error).splitlines()[0]}); expected a folder that "
            "can be written, on a disk that is not full. Free some space and resume: the last whole checkpoint is good."
        ) from error


def write_manifest(folder: Path) -> None:
    """Describe all files of a folder; call it after the last of them is written."""
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
        return {"bytes": path.stat().st_size, "sha256": sha256_of(file)}
