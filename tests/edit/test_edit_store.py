"""The store of edits: one transaction for each edit, several processes, kills, damage."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diekae.edit import Edit
from diekae.edit.database import FILE
from diekae.edit.store import EditStore

WRITER = """
import sys
from diekae.edit import Edit
from diekae.edit.store import EditStore
store = EditStore(sys.argv[1], "decoder", "bank")
for number in range(int(sys.argv[3])):
    record = store.add(Edit("the dog is", "dog", f"{sys.argv[2]} {number}"))
    print(record.id, flush=True)
"""


def open_store(folder: Path) -> EditStore:
    return EditStore(folder, "decoder", "bank")


def dog(target: str) -> Edit:
    return Edit("the dog is", "dog", target)


def states(store: EditStore) -> list[tuple[int, str]]:
    return [(record.id, record.state) for record in store.records(every=True)]


def test_a_newer_edit_supersedes_and_its_reversion_restores(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    for target in ("red", "blue", "green"):
        store.add(dog(target))
    store.add(Edit("the cat is", "cat", "red"))
    assert states(store) == [(1, "superseded"), (2, "superseded"), (3, "live"), (4, "live")]
    store.revert(2)
    assert states(store) == [(1, "superseded"), (2, "reverted"), (3, "live"), (4, "live")]
    store.revert(3)
    assert states(store) == [(1, "live"), (2, "reverted"), (3, "reverted"), (4, "live")]
    assert [record.edit.target for record in store.records()] == ["red", "red"]


def test_a_duplicate_is_refused_and_nothing_written(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.add(dog("red"))
    with pytest.raises(ValueError, match="this is edit 1 already"):
        store.add(dog("red "))
    assert states(store) == [(1, "live")]
    store.add(dog("blue"))
    store.add(dog("red"))  # superseded meanwhile, so it is no duplicate
    assert states(store)[-1] == (3, "live")


def test_reverting_twice_or_without_an_edit_is_refused(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.add(dog("red"))
    store.revert(1)
    with pytest.raises(ValueError, match="edit 1 was reverted before"):
        store.revert(1)
    with pytest.raises(ValueError, match="edit 7 is not in"):
        store.revert(7)


@pytest.mark.parametrize(("name", "decoder", "bank"), [("decoder", "other", "bank"), ("bank", "decoder", "other")])
def test_another_decoder_or_bank_is_refused(tmp_path: Path, name: str, decoder: str, bank: str) -> None:
    open_store(tmp_path).add(dog("red"))
    with pytest.raises(ValueError, match=f"made for {name} {name}, but this {name} is other"):
        EditStore(tmp_path, decoder, bank)
    assert states(open_store(tmp_path)) == [(1, "live")]


def test_damaged_records_and_prepared_knowledge_are_named(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.add(dog("red"))
    store.put_prepared(1, b"whole")
    with sqlite3.connect(tmp_path / FILE) as base:
        base.execute("UPDATE memories SET data = ?", (b"other",))
    with pytest.raises(ValueError, match="edit 1 in .* is damaged"):
        store.prepared(1)
    with sqlite3.connect(tmp_path / FILE) as base:
        base.execute("UPDATE edits SET edit = replace(edit, 'red', 'bad')")
    with pytest.raises(ValueError, match="edit 1 in .* is damaged"):
        store.records()
    store.revert(1)
    assert store.records() == []


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"no database at all" * 99)
    with pytest.raises(ValueError, match="is not a store of edits, or is damaged"):
        open_store(tmp_path)
    assert (tmp_path / FILE).read_bytes() == b"no database at all" * 99


def test_a_copy_is_whole_and_overwrites_no_other_store(tmp_path: Path) -> None:
    store = EditStore(None, "decoder", "bank")
    store.add(dog("red"))
    store.put_prepared(1, b"prepared")
    store.copy_to(tmp_path / "copy")
    copy = open_store(tmp_path / "copy")
    assert copy.records() == store.records() and copy.prepared(1) == b"prepared"
    with pytest.raises(FileExistsError, match="holds edits already"):
        store.copy_to(tmp_path / "copy")
    copy.copy_to(tmp_path / "copy")  # itself: nothing to do


def test_another_connection_sees_what_is_written(tmp_path: Path) -> None:
    first, second = open_store(tmp_path), open_store(tmp_path)
    before = first.version()
    assert first.version() == before
    second.add(dog("red"))
    assert first.version() != before and states(first) == [(1, "live")]


def test_two_processes_write_at_once(tmp_path: Path) -> None:
    open_store(tmp_path)
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), name, "20"], stdout=subprocess.PIPE, text=True)
        for name in ("a", "b")
    ]
    ids = [int(line) for writer in writers for line in writer.communicate()[0].split()]
    assert all(writer.returncode == 0 for writer in writers)
    assert sorted(ids) == list(range(1, 41))
    store = open_store(tmp_path)
    assert len(store.records(every=True)) == 40 and len(store.records()) == 1


def test_a_process_killed_while_adding_loses_the_edit_in_hand_at_most(tmp_path: Path) -> None:
    open_store(tmp_path)
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path), "a", "100000"], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    printed = [int(writer.stdout.readline()) for _ in range(5)]
    time.sleep(0.05)
    os.kill(writer.pid, signal.SIGKILL)
    printed += [int(line) for line in writer.stdout.read().split("\n")[:-1] if line]
    writer.wait()
    store = open_store(tmp_path)
    stored = [record.id for record in store.records(every=True)]
    assert stored[: len(printed)] == printed and len(stored) - len(printed) in (0, 1), "an id is printed after writing"
    assert store.add(dog("last")).id == stored[-1] + 1
