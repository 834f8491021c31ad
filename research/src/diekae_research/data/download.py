"""Download a data set's upstream files: checksums are compared, and a file is written whole or not at all."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import os
import shutil
import struct
import tarfile
import tempfile
import zipfile
import zlib
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
from diekae.files import read_once, sha256_of, written_whole
from diekae.progress import Progress, silent
from diekae_research.data.card import Upstream
from diekae_research.sources import source_card

_CHUNK = 1 << 20
_TIMEOUT = 60.0
"""Seconds to wait for a server."""
_ENCRYPTED = 1
"""Bit of a zip member's flags."""
_DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
    struct.error,
)
"""What reading a damaged archive raises, or one that is packed by an unknown method."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """The result for one upstream file."""

    path: Path
    """Where it is."""
    sha256: str
    """Its checksum."""
    known: bool
    """Whether the checksum was known and compared."""
    fetched: bool
    """Whether it was fetched now; otherwise it existed already."""
    unpacked: int
    """Files that were unpacked from it now; 0 if it is no archive or all existed already."""


def download_source(
    name: str,
    out: str | Path,
    *,
    base_url: str | None = None,
    progress: Progress = silent,
) -> list[Fetched]:
    """Download the upstream files of a data set and unpack its archives.

    An existing file is fetched again only if its checksum is wrong.

    Args:
        name: A registered name.
        out: The data set's folder.
        base_url: A mirror that holds the files under their paths; ``None`` uses the publishers' addresses.
        progress: Called with the bytes of each file; the total is 0 where the server does not state it.

    Returns:
        One result a file.

    Raises:
        DataError: The name is unknown, a file cannot be fetched, a checksum is wrong, or an archive is damaged. The
            files before it stay.
        OSError: The folder cannot be written.
    """
    card = source_card(name)
    if not card.upstream:
        raise DataError(f"source {name!r} has nothing to download; its files come from {card.origin}")
    if base_url is not None and urlsplit(base_url).scheme not in ("http", "https"):
        raise DataError(f"base URL {base_url!r}; expected one that begins with http:// or https://")
    return [_get(file, Path(out), base_url, progress) for file in card.upstream]


def _get(file: Upstream, folder: Path, base_url: str | None, progress: Progress) -> Fetched:
    path = folder / file.path
    sha256 = read_once(path, sha256_of) if path.is_file() else None
    fetched = sha256 is None or (file.sha256 is not None and sha256 != file.sha256)
    if fetched:
        url = file.url if base_url is None else f"{base_url.rstrip('/')}/{quote(file.path)}"
        sha256 = _fetch(url, path, file.sha256, lambda done, total: progress(file.path, done, total))
    assert sha256 is not None, "an existing file has a checksum"
    unpacked = 0 if file.inner is None else unpack(path, folder, file.inner)
    return Fetched(path, sha256, file.sha256 is not None, fetched, unpacked)


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
        with urlopen(Request(url, headers={"User-Agent": "diekae"}), timeout=_TIMEOUT) as response:
            total, done = int(response.headers.get("Content-Length") or 0), 0
            while chunk := response.read(_CHUNK):
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
    """Unpack a folder of a zip or tar archive, except files that exist already with the same size.

    Args:
        archive: The archive.
        folder: Where the files go.
        inner: The folder inside the archive; ``""`` for all of it.

    Returns:
        The number of files written.

    Raises:
        DataError: It is no archive, is damaged or encrypted, holds no file there, or would write outside the folder.
    """
    with _members(archive) as members:
        wanted = {target: member for member in members if (target := _target(archive, member.name, inner))}
        if not wanted:
            raise DataError(f"{str(archive)!r}: holds no file below {inner!r}; is it the right archive?")
        written = 0
        with tempfile.TemporaryDirectory(dir=folder, prefix=".unpack-") as temporary:
            for name, member in wanted.items():
                path = folder / name
                if not path.parent.resolve().is_relative_to(folder.resolve()):
                    raise DataError(
                        f"{str(path.parent)!r} is behind a link that leads out of {str(folder)!r}; remove the link"
                    )
                if path.is_file() and path.stat().st_size == member.size:
                    continue
                with member.open() as source, (Path(temporary) / "file").open("wb") as copy:
                    shutil.copyfileobj(source, copy)
                path.parent.mkdir(parents=True, exist_ok=True)
                os.replace(Path(temporary) / "file", path)
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
                if any(info.flag_bits & _ENCRYPTED for info in packed.infolist()):
                    raise DataError(f"{str(archive)!r}: is encrypted; unpack it by hand")
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
    except _DAMAGED as error:
        raise DataError(
            f"{str(archive)!r}: not a whole zip or tar archive ({error}); remove it and fetch it anew"
        ) from error


def _target(archive: Path, name: str, inner: str) -> PurePosixPath | None:
    """Return a member's path below the folder; ``None`` if it is not below `inner`."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or (path.parts and path.parts[0].endswith(":")):
        raise DataError(f"{str(archive)!r}: the name {name!r} in it leads out of its folder; nothing was unpacked")
    return path.relative_to(inner) if path.is_relative_to(inner) else None
