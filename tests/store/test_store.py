"""The knowledge store: adding, preparing, searching, changing and removing documents."""

import os
import sqlite3
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from builders import make_model
from diekae import DiekaeModel, PreparedKnowledge
from diekae.store import KnowledgeStore
from diekae.store.catalogue import document_id
from diekae.store.catalogue.tables import COLUMNS, write_digest

CASTLE = "the castle was built by king four in the north and two towers are red"
RIVER = "a river has seven dogs"
SHIP = "the silver ship opened in the year nine"


@pytest.fixture(scope="module")
def model() -> DiekaeModel:
    return make_model("attention")


@pytest.fixture
def store(model: DiekaeModel, tmp_path: Path) -> KnowledgeStore:
    return KnowledgeStore(tmp_path / "store", model)


def same(one: PreparedKnowledge, other: PreparedKnowledge) -> bool:
    """Whether two are equal but for the rounding of reading several texts in one batch."""
    close = all(torch.allclose(tensor, other.tensors[name], atol=1e-5) for name, tensor in one.tensors.items())
    return close and (one.token_count, one.bank) == (other.token_count, other.bank)


def counting(model: DiekaeModel, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that takes every text the model prepares from now on."""
    seen: list[str] = []
    prepare = model.prepare_many

    def note(texts, **options):
        seen.extend(texts)
        return prepare(texts, **options)

    monkeypatch.setattr(model, "prepare_many", note)
    return seen


def test_prepared_knowledge_is_loaded_and_generates_the_same(model: DiekaeModel, store: KnowledgeStore) -> None:
    ids = store.add([CASTLE, RIVER]).ids
    again = KnowledgeStore(store.folder, model)
    assert same(again.prepared(ids[0]), model.prepare(CASTLE))
    assert same(again.prepared(*ids), model.prepare([CASTLE, RIVER]))
    alone = store.prepared(*store.add(SHIP).ids)
    assert all(torch.equal(alone.tensors[name], tensor) for name, tensor in model.prepare(SHIP).tensors.items())
    inputs = model.tokenize("who built the castle")
    want = model.generate(**inputs, knowledge=model.prepare(CASTLE), max_new_tokens=8, do_sample=False)
    assert torch.equal(
        model.generate(**inputs, knowledge=again.prepared(ids[0]), max_new_tokens=8, do_sample=False), want
    )
    assert not torch.equal(model.generate(**inputs, max_new_tokens=8, do_sample=False), want)


def test_the_same_text_is_prepared_once(
    model: DiekaeModel, store: KnowledgeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = counting(model, monkeypatch)
    (tmp_path / "a.txt").write_text(CASTLE)
    (tmp_path / "b.md").write_text(CASTLE + "\n\n")
    added = store.add([CASTLE, tmp_path / "a.txt", tmp_path / "b.md", CASTLE])
    assert len(added.ids) == len(added.prepared) == len(seen) == 1
    assert not store.add(CASTLE).prepared and len(seen) == 1
    (entry,) = store.documents()
    assert {Path(place).name for place in entry.places} == {"a.txt", "b.md"}
    assert len(list(store.folder.rglob("*.safetensors"))) == 1


def test_only_changed_files_of_a_folder_are_read_and_prepared(
    model: DiekaeModel, store: KnowledgeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "docs"
    (folder / "deep").mkdir(parents=True)
    (folder / ".git").mkdir()
    (folder / ".git" / "hidden.txt").write_text("hidden")
    (folder / "castle.txt").write_text(CASTLE)
    (folder / "deep" / "river.md").write_text(RIVER)
    (folder / "picture.png").write_bytes(b"\x89PNG")
    first = store.add(folder)
    assert len(first.prepared) == 2 and not first.unchanged and not first.failed
    seen = counting(model, monkeypatch)
    assert store.add(folder).unchanged == 2 and not seen
    (folder / "castle.txt").write_text(SHIP)
    (folder / "deep" / "river.md").touch()
    os.utime(folder / "deep" / "river.md", ns=(1, 1))  # a new time, but the same text
    changed = store.add(folder)
    assert len(changed.prepared) == len(seen) == 1 and changed.unchanged == 0
    assert {store.text(entry.id) for entry in store.documents()} == {RIVER, SHIP}, "the old text is removed"
    assert len(list(store.folder.rglob("*.safetensors"))) == 2 and not store.verify()
    assert store.add(folder).unchanged == 2


def test_deleted_files_are_listed_and_removed_by_prune(store: KnowledgeStore, tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "castle.txt").write_text(CASTLE)
    (folder / "river.txt").write_text(RIVER)
    store.add(folder)
    (folder / "river.txt").unlink()
    assert [Path(name).name for name in store.add(folder).gone] == ["river.txt"]
    assert len(store.documents()) == 2
    store.add(folder, prune=True)
    assert [entry.title for entry in store.documents()] == ["castle.txt"]
    assert not store.verify() and {passage.title for passage in store.search("river")} == {"castle.txt"}


def test_a_text_with_another_source_stays(store: KnowledgeStore, tmp_path: Path) -> None:
    path = tmp_path / "castle.txt"
    path.write_text(CASTLE)
    ids = store.add([path, CASTLE]).ids
    path.write_text(RIVER)
    store.add(path)
    assert store.text(ids[0]) == CASTLE and len(store.documents()) == 2


def test_unreadable_files_of_a_folder_are_left_out_and_listed(store: KnowledgeStore, tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a.txt").write_bytes("château".encode("latin-1"))
    (folder / "b.txt").write_text(" \n")
    (folder / "c.txt").write_text(CASTLE)
    added = store.add(folder)
    assert [Path(place).name for place, _ in added.failed] == ["a.txt", "b.txt"]
    assert "is not UTF-8" in added.failed[0][1] and "holds no text" in added.failed[1][1]
    assert len(added.prepared) == 1
    with pytest.raises(ValueError, match="is not UTF-8"):
        store.add(folder / "a.txt")


def test_a_document_is_found_by_id_beginning_of_id_file_and_title(store: KnowledgeStore, tmp_path: Path) -> None:
    path = tmp_path / "castle.txt"
    path.write_text(CASTLE)
    castle, river = store.add([path, RIVER]).ids
    for name in (castle, castle[:8], str(path), "castle.txt"):
        assert store.text(name) == CASTLE
    assert store.text(RIVER) == RIVER, "a short text is also its title"
    with pytest.raises(ValueError, match="no document 'abc'"):
        store.text("abc")
    assert store.remove(castle[:8]).id == castle
    assert [entry.id for entry in store.documents()] == [river]
    with pytest.raises(ValueError, match="no document"):
        store.prepared(castle)
    assert len(list(store.folder.rglob("*.safetensors"))) == 1


def test_each_bank_prepares_its_own_knowledge(store: KnowledgeStore, model: DiekaeModel) -> None:
    (document,) = store.add(CASTLE).ids
    other = make_model("attention", decoder=model.decoder, seed=5)
    theirs = KnowledgeStore(store.folder, other)
    assert theirs.documents()[0].slots is None, "the document is in the store, but not prepared"
    prepared = theirs.prepared(document)
    assert prepared.bank == other.bank.fingerprint() != store.prepared(document).bank
    assert same(prepared, other.prepare(CASTLE)) and same(store.prepared(document), model.prepare(CASTLE))
    with pytest.raises(ValueError, match="prepare the knowledge again"):
        model(**model.tokenize("what"), knowledge=prepared)
    retold = make_model("attention", decoder=model.decoder, template="about {knowledge}")
    assert retold.bank.fingerprint() == model.bank.fingerprint()
    assert KnowledgeStore(store.folder, retold).documents()[0].slots is None, "each template is prepared apart"
    assert len(theirs.prepare_missing()) == 0
    theirs.remove(document)
    assert not list(store.folder.rglob("*.safetensors")), "the files of all banks are deleted"


def test_without_a_model_a_store_is_listed_searched_and_read(store: KnowledgeStore, model: DiekaeModel) -> None:
    (document,) = store.add(CASTLE).ids
    bare = KnowledgeStore(store.folder)
    assert bare.documents() == store.documents() and bare.documents()[0].slots
    assert same(bare.prepared(document), model.prepare(CASTLE))
    assert bare.search("castle")[0].id == document and not bare.verify()
    with pytest.raises(ValueError, match="needs a model"):
        bare.add(RIVER)


def test_prepared_knowledge_is_mapped_and_not_copied(store: KnowledgeStore) -> None:
    (document,) = store.add(CASTLE).ids
    prepared = store.prepared(document)
    (path,) = store.folder.rglob("*.safetensors")
    assert path.name in Path("/proc/self/maps").read_text(), "the file is not mapped"
    store.remove(document)
    assert torch.isfinite(prepared.tensors["keys"]).all(), "a mapped file stays readable after it is deleted"


def test_ten_thousand_documents_are_listed_in_less_than_a_second(store: KnowledgeStore) -> None:
    vector = np.zeros(256, np.float16).tobytes()
    with store.catalogue.writing() as connection:
        for number in range(10_000):
            text = f"document {number} " + "of words and more words " * 40
            key = document_id(text)
            row = (number + 1, key, f"t{number}", text, len(text), b"")
            connection.execute("INSERT INTO documents VALUES (?, ?, ?, ?, ?, ?)", row)
            row = (number + 1, number + 1, 0, len(text), "", vector, b"")
            connection.execute("INSERT INTO passages VALUES (?, ?, ?, ?, ?, ?, ?)", row)
            connection.execute("INSERT INTO terms(rowid, words) VALUES (?, ?)", (number + 1, text))
            connection.execute("INSERT INTO sources VALUES (?, ?, 1, 1, 1, 1, NULL)", (f"/docs/{number}.txt", key))
            row = (key, store.bank, f"memories/{number}", "0", 1, 100, "exact", b"")
            connection.execute("INSERT INTO memories VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
        for table in COLUMNS:
            write_digest(connection, table)
    start = time.process_time()  # of this process only, because other processes share the machine
    entries = KnowledgeStore(store.folder, store.model).documents()
    seconds = time.process_time() - start
    assert len(entries) == 10_000 and entries[77].places == ("/docs/77.txt",) and entries[77].slots == 100
    assert seconds < 1
    store.search("warm")  # loads the embedder and reads the vectors, each once
    start = time.process_time()
    assert store.search("document 4321", 1)[0].title == "t4321"
    assert time.process_time() - start < 1


def test_a_file_that_is_not_a_catalogue_is_refused(tmp_path: Path) -> None:
    (tmp_path / "catalogue.sqlite").write_bytes(b"not a data base, but long enough to be looked at" * 20)
    with pytest.raises(ValueError, match="is not a catalogue, or is damaged"):
        KnowledgeStore(tmp_path)


def test_a_newer_layout_is_refused(store: KnowledgeStore) -> None:
    with sqlite3.connect(store.catalogue.path) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(ValueError, match="layout 99, newer than 3"):
        KnowledgeStore(store.folder)


def test_the_name_of_a_file_given_as_a_text_is_refused(
    store: KnowledgeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A `str` is always a text: the name of a file would silently become a document of one word."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "castle.txt").write_text(CASTLE)
    for name, what in (("docs", "folder"), ("docs/castle.txt", "file"), (str(tmp_path / "docs"), "folder")):
        with pytest.raises(ValueError, match=rf"is a text, and a {what} of that name exists; .* give Path\('"):
            store.add([RIVER, name])
    assert store.documents() == [], "nothing was added"
    (document,) = store.add("docs\n").ids
    assert store.text(document) == "docs\n", "with a line break it is a text"
    assert len(store.add([Path("docs"), "a" * 5000, "no\x00name"]).ids) == 3


def test_a_stored_text_is_prepared_even_if_a_file_of_its_name_exists_later(
    store: KnowledgeStore, model: DiekaeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add("castle")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "castle").write_text(CASTLE)
    other = KnowledgeStore(store.folder, make_model("attention", decoder=model.decoder, seed=5))
    assert len(other.prepare_missing()) == 1


def test_wrong_calls_raise(store: KnowledgeStore, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a text is empty"):
        store.add([CASTLE, " "])
    with pytest.raises(FileNotFoundError, match="expected a file or a folder"):
        store.add(tmp_path / "none")
    assert store.documents() == [], "nothing was added"
    with pytest.raises(ValueError, match="precision='int4'"):
        KnowledgeStore(tmp_path, precision="int4")
    with pytest.raises(ValueError, match="no document is named"):
        store.prepared()


def test_a_store_prepares_anew_after_the_weights_changed_through_data(tmp_path: Path) -> None:
    """PyTorch does not count such changes; the store looks at a sample of the weights."""
    model = make_model("reader")
    store = KnowledgeStore(tmp_path, model)
    (castle,) = store.add(CASTLE).ids
    stale = store.prepared(castle)
    for parameter in model.bank.parameters():
        parameter.data.mul_(1.5)
    assert store.documents()[0].slots is None
    assert not torch.allclose(store.prepared(castle).tensors["keys"], stale.tensors["keys"])
    with pytest.raises(ValueError, match="was prepared by bank"):
        model(**model.tokenize("where is the castle"), knowledge=stale)
