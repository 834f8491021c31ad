"""Several processes on one store, kills at any moment, damaged files, and what `verify` reports and repairs."""

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from builders import WORDS
from diekae import DiekaeModel
from diekae.store import KnowledgeStore


def start(model: DiekaeModel, folder: Path, first: int, count: int) -> tuple[int, int]:
    """Add documents in another process; return its id, and a pipe from which one byte for each document can be read."""
    reads, writes = os.pipe()
    child = os.fork()
    if child:
        os.close(writes)
        return child, reads
    try:
        store = KnowledgeStore(folder, model)
        for number in range(first, first + count):
            store.add(f"document {WORDS[number % 97]} {WORDS[number // 97 % 97]} {WORDS[number * 7 % 89]}")
            os.write(writes, b".")
        os._exit(0)
    finally:
        os._exit(1)


def whole(store: KnowledgeStore) -> bool:
    """Whether every document has passages and words, and can be loaded if it is listed as prepared."""
    with store.catalogue.reading() as connection:  # at one moment
        documents = {row[0] for row in connection.execute("SELECT number FROM documents")}
        passages = dict(connection.execute("SELECT number, document FROM passages"))
        words = {row[0] for row in connection.execute("SELECT rowid FROM terms")}
    indexed = set(passages.values()) == documents and passages.keys() == words
    return indexed and all(len(store.prepared(entry.id)) == entry.slots for entry in store.documents() if entry.slots)


def test_two_processes_write_while_a_third_reads(model: DiekaeModel, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    writers = [start(model, folder, 0, 30)[0], start(model, folder, 15, 30)[0]]  # half of their texts are the same
    store, looks, ends = KnowledgeStore(folder, model), 0, list[int]()
    while writers:
        assert whole(store)
        looks += 1
        child, status = os.waitpid(writers[0], os.WNOHANG)
        if child:
            ends.append(os.waitstatus_to_exitcode(status))
            writers.pop(0)
    assert ends == [0, 0] and looks > 1
    entries = store.documents()
    assert len(entries) == len(set(entry.id for entry in entries)) == 45 and all(entry.slots for entry in entries)
    assert len(list(folder.rglob("*.safetensors"))) == 45, "a text that both added has one file"
    assert not store.verify()


@pytest.mark.parametrize("kills", [pytest.param(8, id="8"), pytest.param(100, id="100", marks=pytest.mark.long)])
def test_a_kill_at_any_moment_leaves_a_consistent_store(
    model: DiekaeModel, kills: int, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    folder, draw = tmp_path / "store", random.Random(0)
    record_property("tries", kills)
    for kill in range(kills):
        writer, pipe = start(model, folder, 100 * kill, 100_000)
        os.read(pipe, 1)
        time.sleep(draw.uniform(0.0, 0.04))
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
        os.close(pipe)
        store = KnowledgeStore(folder, model)
        assert whole(store) and len(store.documents()) > kill
        assert {fault.kind for fault in store.verify()} <= {"orphan"}
        store.verify(repair=True)
        assert not store.verify()


def test_a_kill_between_file_and_row_leaves_an_orphan_that_verify_removes(
    model: DiekaeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = KnowledgeStore(tmp_path / "store", model)
    store.add("the castle is red")
    child = os.fork()
    if child == 0:  # the child writes the file, and is killed before it adds the row
        from diekae.store import prepared_folder

        write = prepared_folder.write_atomically

        def write_and_die(path: Path, content: bytes) -> None:
            write(path, content)
            os.kill(os.getpid(), signal.SIGKILL)

        prepared_folder.write_atomically = write_and_die
        KnowledgeStore(tmp_path / "store", model).add("the tower is blue")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert [fault.kind for fault in store.verify()] == ["orphan"]
    assert [entry.slots is not None for entry in store.documents()] == [True, False]
    (fault,) = store.verify(repair=True)
    assert fault.repaired and not (store.folder / fault.file).exists()
    assert not store.verify() and len(store.add("the tower is blue").prepared) == 1


def test_damage_is_reported_and_prepared_again_after_repair(model: DiekaeModel, tmp_path: Path) -> None:
    store = KnowledgeStore(tmp_path / "store", model)
    ids = store.add(["the castle is red", "the tower is blue", "a river has dogs"]).ids
    files = {row.document: store.folder / row.file for row in store.catalogue.prepared_files.all()}
    content = bytearray(files[ids[0]].read_bytes())
    content[-3] ^= 1
    files[ids[0]].write_bytes(content)
    files[ids[1]].unlink()
    stray = files[ids[0]].with_name(".half.safetensors.x7")
    stray.write_bytes(b"cut off")
    want = {("damaged", ids[0]), ("missing", ids[1]), ("orphan", None)}
    assert {(fault.kind, fault.document) for fault in store.verify()} == want
    assert {(fault.kind, fault.document) for fault in store.verify()} == want, "verify without repair changes nothing"
    with pytest.raises(ValueError, match="verify --repair"):
        store.prepared(ids[1])
    assert all(fault.repaired for fault in store.verify(repair=True)) and not stray.exists()
    assert not store.verify()
    assert len(store.documents()) == 3, "the documents stay"
    assert len(store.prepared(*ids)) == sum(len(model.prepare(store.text(id))) for id in ids)


def test_a_truncated_file_raises_an_error_that_says_what_to_do(model: DiekaeModel, tmp_path: Path) -> None:
    store = KnowledgeStore(tmp_path / "store", model)
    (document,) = store.add("the castle is red").ids
    path = store.folder / list(store.catalogue.prepared_files.all())[0].file
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match="verify --repair"):
        store.prepared(document)


def test_a_full_text_index_that_does_not_fit_is_rebuilt(model: DiekaeModel, tmp_path: Path) -> None:
    store = KnowledgeStore(tmp_path / "store", model)
    store.add(["the castle is red", "the tower is blue"])
    with store.catalogue.writing() as connection:
        connection.execute("UPDATE terms_content SET c0 = 'silver ship' WHERE id = 1")
    assert not store.catalogue.passages.match_words(["ship"]) and store.catalogue.passages.match_words(["castle"])
    assert {fault.kind for fault in store.verify()} == {"index"}
    assert all(fault.repaired for fault in store.verify(repair=True))
    assert not store.verify()
    assert len(store.catalogue.passages.match_words(["castle"])) == 1, "the words are those of the text"
    assert not store.catalogue.passages.match_words(["ship"])


def test_threads_share_a_store(model: DiekaeModel, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    store = KnowledgeStore(tmp_path / "store", model)
    (document,) = store.add("the castle is red").ids
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: len(store.prepared(document)), range(16))) == {len(store.prepared(document))}
