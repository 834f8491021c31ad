"""Files: written whole, private when the umask says so, on the disk before the call returns, and cleaned up later."""

import errno
import os
import signal
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from diekae import files
from diekae.files import read_once, sha256_of, write_atomically, written_whole


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_new_files_have_the_permissions_of_the_umask(tmp_path: Path) -> None:
    write_atomically(tmp_path / "deep" / "a", b"private")
    assert stat.S_IMODE((tmp_path / "deep" / "a").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "deep").stat().st_mode) == 0o700


def test_a_replaced_file_keeps_its_permissions(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / "a").chmod(0o640)
    write_atomically(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "new" and stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), written_whole(tmp_path / "a") as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_bytes() == b"old"


def test_a_full_disk_is_reported_with_the_name_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "a").write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path / 'a'}'"):
        write_atomically(tmp_path / "a", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_bytes() == b"old"


@pytest.mark.parametrize("hard_links", [True, False])
def test_an_existing_file_is_not_replaced_if_that_is_asked(
    tmp_path: Path, hard_links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError("this drive has no hard links")

    if not hard_links:
        monkeypatch.setattr(os, "link", no_links)
    for content in (b"first", b"second"):
        try:
            with written_whole(tmp_path / "a", replace=False) as file:
                file.write(content)
        except FileExistsError:
            assert content == b"second"
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_bytes() == b"first"


def test_the_file_its_folder_and_new_folders_are_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.readlink(f"/proc/self/fd/{handle}")))
    write_atomically(tmp_path / "b" / "c" / "file", b"x")
    folders = [str(tmp_path), str(tmp_path / "b"), str(tmp_path / "b" / "c")]
    assert synced[:2] == folders[:2], "the folders above each new folder"
    assert synced[2].startswith(f"{folders[2]}/.file.") and synced[3:] == [folders[2]], "first content, then name"


def test_temporary_files_of_killed_saves_are_deleted_by_a_later_process(tmp_path: Path) -> None:
    def in_child(*, die: bool) -> None:
        child = os.fork()
        if child == 0:
            try:
                files._remove_abandoned.cache_clear()  # a fork inherits what its parent remembers
                with written_whole(tmp_path / "a") as file:
                    file.write(b"x")
                    if die:
                        os.kill(os.getpid(), signal.SIGKILL)
            finally:
                os._exit(0)
        os.waitpid(child, 0)

    in_child(die=True)
    (abandoned,) = tmp_path.iterdir()
    in_child(die=False)
    assert abandoned.exists(), "a young file may belong to another machine, whose locks this one does not see"
    old = time.time() - files.ABANDONED - 1
    os.utime(abandoned, (old, old))
    in_child(die=False)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_file_is_read_once_until_it_changes(tmp_path: Path) -> None:
    reads = 0

    def digest(file) -> str:
        nonlocal reads
        reads += 1
        return sha256_of(file)

    path = tmp_path / "a"
    path.write_bytes(b"one")
    first = read_once(path, digest)
    assert read_once(path, digest) == first and reads == 1
    before = path.stat()
    time.sleep(0.02)  # file systems count time in steps of some milliseconds
    path.write_bytes(b"two")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert read_once(path, digest) != first and reads == 2, "the same size and time of modification"
