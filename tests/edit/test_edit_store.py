"""The store of edits: one transaction for each edit, several processes, kills, damage."""

import dataclasses
import hashlib
import json
import sqlite3
from pathlib import Path

import pytest

from diekae.edit import Edit
from diekae.edit.database import FILE
from diekae.edit.store import EditStore


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
    with pytest.raises(ValueError, match="no edit 7 in"):
        store.revert(7)


@pytest.mark.parametrize(("name", "decoder", "bank"), [("decoder", "other", "bank"), ("bank", "decoder", "other")])
def test_another_decoder_or_bank_is_refused(tmp_path: Path, name: str, decoder: str, bank: str) -> None:
    open_store(tmp_path).add(dog("red"))
    with pytest.raises(ValueError, match=f"made for {name} {name}, but this {name} is other"):
        EditStore(tmp_path, decoder, bank)
    assert states(open_store(tmp_path)) == [(1, "live")]


def change(folder: Path, statement: str, *values: object) -> None:
    """Change the file behind the store's back."""
    base = sqlite3.connect(folder / FILE, isolation_level=None)
    base.execute(statement, values)
    base.close()


def test_damaged_prepared_knowledge_and_vectors_are_not_returned(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    for target in ("red", "blue"):
        store.add(Edit(f"the {target} dog is", "dog", target))
        store.put_prepared(len(store.records()), target.encode())
        store.put_vectors("gate", [(len(store.records()), target.encode())])
    assert store.prepared(1) == b"red" and store.vectors("gate") == {1: b"red", 2: b"blue"}
    change(tmp_path, "UPDATE memories SET data = x'00' WHERE id = 1")
    assert store.prepared(1) is None and store.prepared(2) == b"blue"
    for table in ("memories", "vectors"):  # what belongs to another edit
        change(tmp_path, f"DELETE FROM {table} WHERE id = 1")
        change(tmp_path, f"UPDATE {table} SET id = 1 WHERE id = 2")
    assert store.prepared(1) is None and store.vectors("gate") == {}


@pytest.mark.parametrize(
    "damage",
    [
        "edit = replace(edit, 'red', 'bad')",
        "edit = CAST(x'ff00fe' AS TEXT)",
        "fact = 'other'",
        "created = '1970'",
        "digest = ''",
        "reverted = 1",
    ],
)
def test_a_damaged_record_is_named_and_can_be_reverted(tmp_path: Path, damage: str) -> None:
    store = open_store(tmp_path)
    store.add(dog("blue"))
    store.add(dog("red"))
    change(tmp_path, f"UPDATE edits SET {damage} WHERE id = 2")
    for read in (store.records, lambda: store.records(every=True), lambda: store.record(2)):
        with pytest.raises(ValueError, match="edit 2 in .* is damaged: .*Revert it and make it again"):
            read()
    assert "EditStore" in repr(store) and store.revert(2) is None
    assert states(store) == [(1, "live")], "the damaged edit is not listed"
    with pytest.raises(ValueError, match="edit 2 was reverted before"):
        store.revert(2)
    assert store.add(dog("red")).id == 3


def test_a_reverted_edit_that_damage_revives_is_noticed(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.add(dog("red"))
    store.revert(1)
    change(tmp_path, "UPDATE edits SET reverted = 0")
    with pytest.raises(ValueError, match="edit 1 in .* is damaged"):
        store.records()


def test_a_number_that_no_edit_can_have_is_refused(tmp_path: Path) -> None:
    for number in (0, -1, 10**30):
        with pytest.raises(ValueError, match=f"no edit {number} in"):
            open_store(tmp_path).revert(number)


OLD_TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE edits (id INTEGER PRIMARY KEY AUTOINCREMENT, fact TEXT NOT NULL, edit TEXT NOT NULL, digest TEXT NOT NULL,
    created TEXT NOT NULL, reverted INTEGER NOT NULL DEFAULT 0) STRICT;
CREATE INDEX by_fact ON edits (fact);
CREATE TABLE memories (id INTEGER PRIMARY KEY REFERENCES edits, data BLOB NOT NULL, digest TEXT NOT NULL) STRICT;
CREATE TABLE vectors (id INTEGER NOT NULL REFERENCES edits, gate TEXT NOT NULL, data BLOB NOT NULL,
    PRIMARY KEY (id, gate)) STRICT;
INSERT INTO meta VALUES ('format', '1'), ('decoder', 'decoder'), ('bank', 'bank');
"""


def test_a_store_of_the_format_before_is_upgraded(tmp_path: Path) -> None:
    def plain_digest(data: bytes) -> str:
        return hashlib.sha256(data).hexdigest()

    base = sqlite3.connect(tmp_path / FILE)
    base.executescript(OLD_TABLES)
    poisoned = json.dumps({**dataclasses.asdict(dog("x")), "target": "\ud800"}, sort_keys=True)
    texts = [json.dumps(dataclasses.asdict(dog(target)), sort_keys=True) for target in ("red", "blue")]
    for number, text in enumerate([*texts, poisoned], 1):
        row = (f"old key {number}", text, plain_digest(text.encode()), "2026-01-01T00:00:00+00:00", number == 1)
        base.execute("INSERT INTO edits (fact, edit, digest, created, reverted) VALUES (?, ?, ?, ?, ?)", row)
        base.execute("INSERT INTO memories VALUES (?, ?, ?)", (number, b"prepared", plain_digest(b"prepared")))
        base.execute("INSERT INTO vectors VALUES (?, 'gate', ?)", (number, b"vector"))
    base.commit()
    base.close()
    store = open_store(tmp_path)
    with pytest.raises(ValueError, match="edit 3 in .* is damaged"):
        store.records()
    store.revert(3)
    assert states(store) == [(1, "reverted"), (2, "live")] and store.duplicate(dog("blue")) == 2
    assert store.prepared(2) == b"prepared" and store.vectors("gate") == {}
    store.close()
    assert states(open_store(tmp_path)) == [(1, "reverted"), (2, "live")]


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
