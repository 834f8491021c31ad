"""Fetching a data set's upstream files: checked, whole or not at all, and not twice."""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit
from urllib.request import Request, urlopen

from diekae.data.example import DataError
from diekae.files import written_whole
from diekae.progress import Progress, silent
from diekae_research.data.card import Upstream
from diekae_research.sources import source_card

_CHUNK = 1 << 20
_TIMEOUT = 60.0
"""Seconds without a byte after which a server counts as gone."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """What became of one upstream file."""

    path: Path
    """Where it lies."""
    sha256: str
    """Its checksum."""
    known: bool
    """Whether that is a checksum that was known beforehand."""
    fetched: bool
    """Whether it was fetched now; it was there already otherwise."""
    unpacked: int
    """Files that were taken out of it now; 0 if it is no archive, or all were there already."""


def download_source(
    name: str,
    out: str | Path,
    *,
    base_url: str | None = None,
    progress: Progress = silent,
) -> list[Fetched]:
    """Fetch the upstream files of a data set and unpack its archives.

    A file that is there and right is not fetched again; one whose checksum is wrong is replaced.

    Args:
        name: A registered name.
        out: The data set's folder.
        base_url: Where the files lie under their own names instead of their publishers' addresses: a mirror.
        progress: Told the bytes of each file; the whole is 0 where the server does not say it.

    Returns:
        One report a file.

    Raises:
        DataError: If the name is unknown, a file cannot be fetched, a checksum is wrong, or an archive is not as
            expected; that file then is not there, those before it are.
        OSError: If the folder cannot be written.
    """
    card = source_card(name)
    if not card.upstream:
        raise DataError(f"source {name!r} has nothing to download; its files come from {card.origin}")
    if base_url is not None and urlsplit(base_url).scheme not in ("http", "https"):
        raise DataError(f"base URL {base_url!r}; expected one that begins with http:// or https://")
    return [_get(file, Path(out), base_url, progress) for file in card.upstream]


def _get(file: Upstream, folder: Path, base_url: str | None, progress: Progress) -> Fetched:
    path = folder / file.path
    found = sha256_of(path) if path.is_file() else None
    fetched = found is None or (file.sha256 is not None and found != file.sha256)
    if fetched:
        url = file.url if base_url is None else f"{base_url.rstrip('/')}/{quote(file.path)}"
        found = _fetch(url, path, file.sha256, lambda done, total: progress(file.path, done, total))
    assert found is not None, "a file that is there has a checksum"
    unpacked = 0 if file.inner is None else unpack(path, folder, file.inner)
    return Fetched(path, found, file.sha256 is not None, fetched, unpacked)


def sha256_of(path: Path) -> str:
    """The checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch(url: str, path: Path, sha256: str | None, progress: Callable[[int, int], None]) -> str:
    digest = hashlib.sha256()
    with written_whole(path) as target:
        for chunk in _chunks(url, progress):
            digest.update(chunk)
            target.write(chunk)
        if sha256 is not None and digest.hexdigest() != sha256:
            raise DataError(
                f"{url}: its SHA-256 is {digest.hexdigest()}, expected {sha256}; the file was changed upstream or on "
                "its way, and is not kept"
            )
    return digest.hexdigest()


def _chunks(url: str, progress: Callable[[int, int], None]) -> Iterator[bytes]:
    try:
        with urlopen(Request(url, headers={"User-Agent": "diekae"}), timeout=_TIMEOUT) as answer:  # noqa: S310
            total, done = int(answer.headers.get("Content-Length") or 0), 0
            while chunk := answer.read(_CHUNK):
                done += len(chunk)
                progress(done, total)
                yield chunk
    except HTTPError as error:
        raise DataError(f"{url}: the server answered {error.code} {error.reason}; has the file moved?") from error
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise DataError(
            f"{url}: cannot be fetched ({reason}); is there a network? Files put into the folder by hand are taken too"
        ) from error
    if done < total:
        raise DataError(f"{url}: ended after {done} of {total} bytes; try again")


def unpack(archive: Path, folder: Path, inner: str) -> int:
    """Unpack what lies in a folder of a zip or tar archive, except files that are there already in their size.

    Args:
        archive: The archive.
        folder: Where its content goes.
        inner: The folder in the archive; ``""`` for all of it.

    Returns:
        How many files were written.

    Raises:
        DataError: If it is no archive, holds nothing there, or a name in it leads out of the folder.
    """
    with _members(archive) as members:
        wanted = {target: member for member in members if (target := _target(archive, member.name, inner))}
        if not wanted:
            raise DataError(f"{archive}: holds no file below {inner!r}; is it the right archive?")
        written = 0
        with tempfile.TemporaryDirectory(dir=folder, prefix=".unpack-") as beside:
            for name, member in wanted.items():
                path = folder / name
                if path.is_file() and path.stat().st_size == member.size:
                    continue
                with member.open() as source, (Path(beside) / "file").open("wb") as copy:
                    shutil.copyfileobj(source, copy)
                path.parent.mkdir(parents=True, exist_ok=True)
                os.replace(Path(beside) / "file", path)
                written += 1
    return written


@dataclass(frozen=True, slots=True)
class _Member:
    """One file of an archive, zip or tar."""

    name: str
    size: int
    open: Callable[[], IO[bytes]]


@contextmanager
def _members(archive: Path) -> Iterator[list[_Member]]:
    """Open an archive and list its regular files."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as packed:
                yield [
                    _Member(info.filename, info.file_size, lambda info=info: packed.open(info))  # type: ignore[misc]
                    for info in packed.infolist()
                    if not info.is_dir()
                ]
        else:
            with tarfile.open(archive) as tar:
                yield [
                    _Member(info.name, info.size, lambda info=info: tar.extractfile(info))  # type: ignore[misc, arg-type]
                    for info in tar.getmembers()
                    if info.isfile()
                ]
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise DataError(f"{archive}: not a whole zip or tar archive ({error}); remove it and fetch it anew") from error


def _target(archive: Path, name: str, inner: str) -> PurePosixPath | None:
    """Where a member goes below the folder; ``None`` if it is not below `inner`."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or (path.parts and path.parts[0].endswith(":")):
        raise DataError(f"{archive}: the name {name!r} in it leads out of its folder; nothing was unpacked")
    return path.relative_to(inner) if path.is_relative_to(inner) else None
