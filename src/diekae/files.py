"""Files: atomic writing, and a lock on a folder."""

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
    """Open a temporary file that replaces the target if the block ends without an error.

    Missing folders are created. If anything fails, the old file stays as it was.

    Raises:
        OSError: The disk is full, or the folder is not writable.
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
    """Write a file through a temporary one; see :func:`written_whole`.

    Raises:
        OSError: The disk is full, or the folder is not writable.
    """
    with written_whole(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Lock a folder for this process until the block or the process ends.

    Raises:
        RuntimeError: Another process has locked it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RuntimeError(
                f"another process is at work in {str(folder)!r} and would lose its checkpoints; wait until it has "
                "ended, or name another folder with --out."
            ) from error
        yield


def place_named(text: str) -> Path | None:
    """Return the existing file or folder that a text is the path of; None if there is none."""
    if not text.strip() or "\n" in text:
        return None
    try:
        path = Path(text)
        return path if path.exists() else None
    except (OSError, ValueError):  # too long for a path, or with a character that paths cannot contain
        return None
