"""What a call costs does not grow with the store; no folder grows with it; and nothing is written that is only read."""

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from builders import WORDS
from diekae import DiekaeModel
from diekae.knowledge import PreparedKnowledge
from diekae.store import KnowledgeStore
from diekae.store.catalogue import DocumentSource, IndexedPassage, document_id
from diekae.store.prepared_folder import BATCH, CHARACTERS, batch_size

CASTLE = "the castle is red"


def fill(store: KnowledgeStore, first: int, last: int) -> None:
    """Add documents to the catalogue alone."""
    vector = np.zeros(256, np.float16).tobytes()
    with store.catalogue.writing():
        for number in range(first, last):
            text = f"document {number}"
            source = DocumentSource(f"/docs/{number}.txt", document_id(text))
            store.catalogue.documents.put(
                source, f"{number}.txt", text, [IndexedPassage(0, len(text), "", text, vector)]
            )


def steps(store: KnowledgeStore, call: Callable[[], object]) -> int:
    """Return how many hundred steps SQLite makes for a call."""
    count = 0

    def note() -> None:
        nonlocal count
        count += 1

    with store.catalogue.reading() as connection:
        pass
    connection.set_progress_handler(note, 100)
    call()
    connection.set_progress_handler(None, 0)
    return count


def test_the_cost_of_a_call_does_not_grow_with_the_store(
    model: DiekaeModel, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    store = KnowledgeStore(tmp_path / "store", model)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text(CASTLE)
    (document,) = store.add(tmp_path / "docs").ids
    calls: dict[str, Callable[[], object]] = {
        "a known text": lambda: store.add(CASTLE),
        "a known folder": lambda: store.add(tmp_path / "docs"),
        "prepared by id": lambda: store.prepared(document),
        "prepared by the beginning of the id": lambda: store.prepared(document[:9]),
        "prepared by title": lambda: store.prepared("a.txt"),
        "a text": lambda: store.text(document),
        "the bank": lambda: KnowledgeStore(store.folder).bank,
        "the beginning of the list": lambda: next(store.iter_documents()),
        "a new text, removed": lambda: store.remove(store.add("the tower is blue").ids[0]),
    }
    record_property("tries", len(calls))
    store.search("castle")
    fill(store, 0, 100)
    few = {name: steps(store, call) for name, call in calls.items()}
    fill(store, 100, 1000)
    many = {name: steps(store, call) for name, call in calls.items()}
    assert {name: count for name, count in many.items() if count > 1.5 * few[name] + 5} == {}


def test_a_search_reads_only_the_vectors_that_are_new(model: DiekaeModel, tmp_path: Path) -> None:
    store, reference = KnowledgeStore(tmp_path, model), KnowledgeStore(tmp_path, model)
    fill(store, 0, 300)
    store.search("tower")

    def search() -> None:
        assert store.search("document red", 400) == KnowledgeStore(tmp_path, model).search("document red", 400)

    def searches() -> int:
        return steps(store, lambda: store.catalogue.passages.vectors(store._search._vectors))

    unchanged = searches()
    (castle,) = reference.add(CASTLE, prepare=False).ids
    assert searches() < unchanged + 3
    search()
    reference.remove(castle)
    reference.add([CASTLE, "the tower is blue"], prepare=False)
    search()
    with reference.catalogue.writing():
        for document in store.documents():
            reference.remove(document.id)
    assert store.search("tower") == []
    reference.add(CASTLE, prepare=False)
    search()


def test_all_documents_are_listed_page_by_page(
    model: DiekaeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diekae.store.catalogue.documents._PAGE", 10)
    store = KnowledgeStore(tmp_path, model)
    fill(store, 0, 120)
    assert list(store.iter_documents()) == store.documents() and len(store.documents()) == 120
    titles = []
    for document in store.iter_documents():  # others add and remove meanwhile
        titles.append(document.title)
        store.remove(document.id)
        if len(titles) == 70:
            fill(store, 120, 130)
    assert titles == [f"{number}.txt" for number in range(130)] and not store.documents()


def test_what_one_call_reads_is_limited(model: DiekaeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = KnowledgeStore(tmp_path, model).add([f"the tower {name} is old" for name in WORDS[:9]]).ids
    bytes_of_one = max(KnowledgeStore(tmp_path, model).prepared(id).nbytes for id in ids)
    store, loads = KnowledgeStore(tmp_path, model, most_bytes=3 * bytes_of_one), list[Path]()
    load = PreparedKnowledge.load
    monkeypatch.setattr(PreparedKnowledge, "load", lambda path, **options: loads.append(path) or load(path, **options))
    assert len(store.prepared(*ids[:3])) and len(store.read(store.search("tower", 3)))
    for call in (lambda: store.prepared(*ids), lambda: store.read(store.search("tower", 9))):
        loads.clear()
        with pytest.raises(ValueError, match=r"more than most_bytes=[\d,]+ bytes with document number 4; read fewer"):
            call()
        assert len(loads) == 4, "the rest is not read"


def test_files_are_spread_over_folders(model: DiekaeModel, tmp_path: Path) -> None:
    store = KnowledgeStore(tmp_path, model)
    for id in store.add([f"tower {number}" for number in range(5)]).ids:
        file = store.catalogue.prepared_files.select(store.bank, id)
        assert file is not None and Path(file.file).parent == Path("memories", store.bank, id[:2])


def test_long_documents_are_prepared_in_small_batches() -> None:
    lengths, sizes = [number * 800 for number in range(60)], list[int]()
    while lengths:
        sizes.append(batch_size(lengths[:BATCH]))
        assert sizes[-1] * lengths[sizes[-1] - 1] <= CHARACTERS or sizes[-1] == 1
        del lengths[: sizes[-1]]
    assert batch_size([10 * CHARACTERS]) == 1
    assert sizes[0] == BATCH and sum(sizes) == 60 and 1 < sizes[-1] < BATCH


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_a_private_store_is_private(model: DiekaeModel, tmp_path: Path) -> None:
    store = KnowledgeStore(tmp_path / "store", model)
    store.add(CASTLE)
    for path in (store.folder, *store.folder.rglob("*")):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path


@pytest.mark.usefixtures("synced")
def test_transactions_are_on_the_disk_when_a_call_returns(model: DiekaeModel, tmp_path: Path) -> None:
    with KnowledgeStore(tmp_path, model).catalogue.writing() as connection:
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,), "FULL"


def test_a_store_that_cannot_be_written_is_read(
    model: DiekaeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = KnowledgeStore(tmp_path / "store", model)
    ids = writer.add([CASTLE, "the tower is blue"]).ids
    want = writer.documents(), writer.search("castle"), len(writer.prepared(*ids))
    writer.close()
    before = {path: path.stat().st_mtime_ns for path in writer.folder.rglob("*")}
    monkeypatch.setattr(os, "access", lambda *_: False)  # tests may run as root, who may write everywhere
    for reader in (KnowledgeStore(writer.folder, model), KnowledgeStore(writer.folder)):
        assert (reader.documents(), reader.search("castle"), len(reader.prepared(*ids))) == want
        assert reader.text(ids[0]) == CASTLE and not reader.verify()
        with pytest.raises(OSError, match="cannot be written; copy the store"):
            reader.remove(ids[0])
        with pytest.raises(OSError, match="cannot be written; copy the store"):
            reader.verify(repair=True)
    with pytest.raises(OSError, match="cannot be written; copy the store"):
        KnowledgeStore(writer.folder, model).add("a river")
    assert {path: path.stat().st_mtime_ns for path in writer.folder.rglob("*")} == before
