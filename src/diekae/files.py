"""Files: atomic writing that survives a kill and a power cut, digests computed once, and a lock on a folder."""

from __future__ import annotations

import errno
import fcntl
import functools
import hashlib
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar, cast

_TEMPORARY = ".writing"
"""How the names of temporary files end."""
ABANDONED = 3600.0
"""Seconds after which a temporary file that no process has locked is deleted."""
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Errors of a disk that is full or broken."""
_REMEMBERED = 10_000
"""Most files whose results :func:`read_once` remembers."""
_Result = TypeVar("_Result")


@contextmanager
def written_whole(path: Path, *, replace: bool = True) -> Iterator[BinaryIO]:
    """Open a temporary file that takes the target's place if the block ends without an error.

    Missing folders are created. If anything fails, the old file stays as it was. After the block, the file and its name
    survive a power cut. A new file has the permissions that the umask allows, and a replaced one those of the old file.

    Raises:
        FileExistsError: There is a file of that name, and it is not to be replaced.
        OSError: The disk is full, the folder is not writable, or there is a folder of that name.
        ValueError: There can be no file of that name.
    """
    path = as_path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{str(path)!r} is a folder, where a file is to be written; name a file.")
    make_folder(path.parent)
    _remove_abandoned(os.path.abspath(path.parent))
    temporary = path.with_name(f".{path.name[:40]}.{secrets.token_hex(8)}{_TEMPORARY}")
    # With 0o666, the kernel applies the umask.
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            with suppress(OSError):  # some network drives have no locks
                fcntl.flock(file, fcntl.LOCK_EX)
            yield file
            file.flush()
            if replace and path.exists():
                os.fchmod(file.fileno(), stat.S_IMODE(path.stat().st_mode))
            os.fsync(file.fileno())
            if replace:
                os.replace(temporary, path)
            else:
                _rename_to_new(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _DISK and error.filename is None:
            error.filename = str(path)  # the system does not say which file it could not write
        raise
    sync_folder(path.parent)


def _rename_to_new(temporary: Path, path: Path) -> None:
    """Rename a file; raise FileExistsError if the new name is taken."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a drive without hard links
        if path.exists():
            raise FileExistsError(f"{str(path)!r} exists already.") from None
        os.rename(temporary, path)
    else:
        temporary.unlink()


@functools.cache  # once for each folder and process: a listing for every file would take too long
def _remove_abandoned(folder: str) -> None:
    """Delete the temporary files of processes that were killed while they wrote."""
    for path in Path(folder).glob(f".*{_TEMPORARY}"):
        with suppress(OSError):
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails if its writer is alive
                if time.time() - os.fstat(handle).st_mtime > ABANDONED:
                    path.unlink()
            finally:
                os.close(handle)


def as_path(path: str | Path) -> Path:
    """Return the path of a file or folder that may exist.

    Raises:
        ValueError: It is empty, or the system has no such paths: it holds NUL or what file names cannot hold, is too
            long, or leads through links that go round.
    """
    if path == "":
        raise ValueError("the path is empty (''); name a file or folder, or '.' for the current folder.")
    shown = repr(str(path) if len(str(path)) < 200 else f"{str(path)[:100]}…")
    try:
        os.stat(path)
    except ValueError as error:
        raise ValueError(f"{shown} cannot be the path of a file or folder ({error}); name another one.") from error
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise ValueError(
                f"{shown} cannot be the path of a file or folder ({error.strerror}); name another one."
            ) from error
    return Path(path)


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a file through a temporary one; see :func:`written_whole`."""
    with written_whole(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def make_folder(folder: Path) -> None:
    """Create a folder and those above it; afterwards they survive a power cut.

    Raises:
        NotADirectoryError: There is a file of its name, or of one above it.
        OSError: It cannot be created.
    """
    missing, folder = [], as_path(folder)
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    if not folder.is_dir():
        raise NotADirectoryError(f"{str(folder)!r} is a file, where a folder is needed; name another place.")
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Write a folder's list of files to the disk, so that names survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # some network drives cannot
            os.fsync(handle)
    finally:
        os.close(handle)


class FileState(NamedTuple):
    """What changes when a file is written or replaced, as the operating system keeps it."""

    size: int
    """Bytes."""
    modified: int
    """When the content was last modified, in nanoseconds; programs may set it to any time."""
    changed: int
    """When the content or the name was last changed, in nanoseconds; programs cannot set it."""
    inode: int
    """Number of the file on its drive."""

    @classmethod
    def of(cls, status: os.stat_result) -> FileState:
        """Return the state that :func:`os.stat` has read."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


_NOTHING = object()
_results: dict[tuple[Callable[[BufferedReader], Any], int, FileState], Any] = {}


def read_once(path: Path, function: Callable[[BufferedReader], _Result]) -> _Result:
    """Return a function of an open file, remembered for this process as long as the file's state is the same.

    An exception is not remembered.
    """
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        key = (function, status.st_dev, FileState.of(status))
        if (remembered := _results.get(key, _NOTHING)) is not _NOTHING:
            return cast(_Result, remembered)
        result = function(file)
    if len(_results) >= _REMEMBERED:
        _results.clear()
    _results[key] = result
    return result


def sha256_of(file: BufferedReader) -> str:
    """Return the SHA-256 of an open file, in hexadecimal."""
    return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Lock a folder until the block or the process ends, after waiting for any other process or thread that has.

    Yield False if its file system has no locks. The folder is created if it is missing, and no file is left in it.
    """
    make_folder(folder)
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            has_locks = True
        except OSError:  # some network drives have none
            has_locks = False
        yield has_locks
    finally:
        os.close(handle)


def existing_path(text: str) -> Path | None:
    """Return the existing file or folder that a text is the path of; None if there is none."""
    if not text.strip() or "\n" in text:
        return None
    try:
        path = Path(text)
        return path if path.exists() else None
    except (OSError, ValueError):  # too long for a path, or with a character that paths cannot contain
        return None
