"""Writing files whole or not at all."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """Open a file beside the target, and rename it over the target once the block has ended well.

    Raises:
        OSError: The disk is full or the folder cannot be written; nothing of the new content stays behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write beside the target, then rename over it: a full disk or a kill leaves the old file as it was.

    Raises:
        OSError: The disk is full or the folder cannot be written; nothing of the new content stays behind.
    """
    with written_whole(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a folder for this process; the hold ends with the block, or with the process, however that ends.

    Raises:
        RuntimeError: Another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RuntimeError(
                f"another process is at work in {str(folder)!r} and would lose its checkpoints; expected a folder that"
                " no other process writes to: wait until it has ended, or name another with --out."
            ) from error
        yield


def place_named(text: str) -> Path | None:
    """Return the file or folder that a text is the name of, as seen from the working folder; None for other texts."""
    if not text.strip() or "\n" in text:
        return None
    try:
        path = Path(text)
        return path if path.exists() else None
    except (OSError, ValueError):  # longer than any name, or with a character that none has
        return None
