"""The file of a store of edits: its permissions, folders that cannot be written, full disks, and copies."""

import os
import shutil
import sqlite3
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from builders import make_model
from diekae.edit import Edit, edit_model, load_edits
from diekae.edit.database import FILE
from diekae.edit.edits import make_store
from diekae.edit.store import EditStore


def open_store(folder: Path | None) -> EditStore:
    return EditStore(folder, "decoder", "bank")


def dog(target: str) -> Edit:
    return Edit("the dog is", "dog", target)


@pytest.mark.parametrize("umask", [0o077, 0o022, 0o002])
def test_the_umask_decides_who_may_read_the_file_and_its_copy(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        store = open_store(tmp_path / "edits")
        store.add(dog("red"))
        store.copy_to(tmp_path / "copy")
    finally:
        os.umask(before)
    for folder in ("edits", "copy"):
        assert stat.S_IMODE((tmp_path / folder / FILE).stat().st_mode) == 0o666 & ~umask


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    for path in folder.rglob("*"):
        path.chmod(0o755)
    shutil.rmtree(folder)


def without_rights(work: Callable[[], None]) -> None:
    """Run a function in another process, which is not root, and fail if it fails."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if os.getuid() == 0:
                os.setuid(65534)
            work()
            status = 0
        finally:
            if status:
                import traceback

                traceback.print_exc()
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("while_open", [False, True])
def test_edits_in_a_folder_that_cannot_be_written_are_read(open_folder: Path, while_open: bool) -> None:
    folder = open_folder / "edits"
    model = make_model("reader")
    store = make_store(model, folder)
    store.add(Edit("the red house is", "red house", "blue"))
    if not while_open:
        store.close()
    for path in folder.iterdir():
        path.chmod(0o444)
    folder.chmod(0o555)

    def work() -> None:
        edits = load_edits(model, folder, gate="mention")
        assert [record.id for record in edits.list()] == [1]
        assert edits.which(["the red house is"]) == [[1]]
        for change in (lambda: edits.add([Edit("the sea is", "sea", "deep")]), lambda: edits.revert(1)):
            with pytest.raises(
                OSError, match=r"edits.sqlite' cannot be used \(.*\); expected a folder .* can be written"
            ):
                change()
        assert [record.id for record in edits.list(every=True)] == [1]
        with pytest.raises(OSError, match=r"other/edits.sqlite' cannot be made \(Permission denied\); name a folder"):
            make_store(model, open_folder / "other")

    without_rights(work)


def test_changes_that_only_a_log_holds_are_not_left_out_silently(open_folder: Path) -> None:
    folder = open_folder / "edits"
    store = open_store(folder)
    store.add(dog("red"))
    shutil.copytree(folder, open_folder / "killed")  # as a kill leaves it, with a log
    store.close()
    for path in (open_folder / "killed").iterdir():
        path.unlink() if path.name.endswith("-shm") else path.chmod(0o444)
    assert (open_folder / "killed" / f"{FILE}-wal").stat().st_size
    (open_folder / "killed").chmod(0o555)

    def work() -> None:
        with pytest.raises(OSError, match="cannot be used"):
            open_store(open_folder / "killed")

    without_rights(work)


def fill_disk(store: EditStore) -> Callable[[], object]:
    """Let the file grow no further; return what frees it."""
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count = {pages}")
    return lambda: store._connection.execute("PRAGMA max_page_count = 1000000")


def test_a_full_disk_is_an_error_in_a_sentence_and_loses_nothing(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.add(dog("red"))
    empty = fill_disk(store)
    long = dog("blue " * 5000)
    with pytest.raises(OSError, match=r"cannot be used \(database or disk is full\); expected a folder .* is not full"):
        store.add(long)
    assert [record.id for record in store.records(every=True)] == [1]
    empty()
    assert store.add(long).id == 2, "no id is skipped or given twice"


def test_a_disk_that_fills_while_edits_are_made(tmp_path: Path) -> None:
    model = make_model("reader")
    edits = edit_model(model, [], folder=tmp_path, gate="mention")
    empty = fill_disk(edits.store)
    short, long = Edit("the sea is", "sea", "deep"), Edit("the dog is", "dog", "red " * 5000)
    with pytest.raises(OSError, match="1 of 2 edits were made"):
        edits.add([short, long])
    assert edits.which(["the sea is", "the dog is"]) == [[1], []]
    assert edits.knowledge(["the sea is"]) != [None], "answers need no room on the disk"
    with pytest.warns(UserWarning, match="The edits were made, but .* was not stored"):
        assert edits.add([Edit("the lake is", "lake", "old")])[0].id == 2
    empty()
    edits.prepare()
    assert edits.store.without_prepared() == []


def test_a_copy_ignores_the_log_of_a_file_that_is_gone(tmp_path: Path) -> None:
    other = open_store(tmp_path / "other")
    other.add(dog("blue"))
    (tmp_path / "copy").mkdir()
    shutil.copy(tmp_path / "other" / f"{FILE}-wal", tmp_path / "copy" / f"{FILE}-wal")
    store = open_store(None)
    store.add(dog("red"))
    store.copy_to(tmp_path / "copy")
    assert [record.edit.target for record in open_store(tmp_path / "copy").records()] == ["red"]


def test_a_copy_that_fails_leaves_nothing_and_names_the_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(None)
    store.add(dog("red"))
    real = sqlite3.connect

    def connect_full(path: Path) -> sqlite3.Connection:
        connection = real(path)
        connection.execute("PRAGMA max_page_count = 2")
        return connection

    monkeypatch.setattr("diekae.edit.database.sqlite3.connect", connect_full)
    with pytest.raises(
        OSError, match=r"the copy '.*copy/edits.sqlite' of the edits in memory cannot be used \(.* full"
    ):
        store.copy_to(tmp_path / "copy")
    assert list((tmp_path / "copy").iterdir()) == []


def test_edits_are_saved_while_another_thread_makes_some(tmp_path: Path) -> None:
    store = open_store(tmp_path / "edits")
    store.add(dog("first"))
    stop = threading.Event()

    def add() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            store.add(dog(str(number)))

    thread = threading.Thread(target=add)
    thread.start()
    for number in range(10):
        store.copy_to(tmp_path / f"copy {number}")
    stop.set()
    thread.join()
    targets = [record.edit.target for record in store.records(every=True)]
    lengths = []
    for number in range(10):
        copied = [record.edit.target for record in open_store(tmp_path / f"copy {number}").records(every=True)]
        assert copied == targets[: len(copied)]
        lengths.append(len(copied))
    assert lengths == sorted(lengths) and lengths[-1] > 1
