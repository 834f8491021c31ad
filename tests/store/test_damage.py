"""Damaged catalogues: what is read is right or an error is raised, and `verify` names what is wrong."""

import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from diekae import DiekaeModel
from diekae.store import KnowledgeStore
from diekae.store.catalogue import document_id

TEXTS = ["# Castle\n\nthe castle is red and old", "the tower is blue", "a river has seven dogs"]


@pytest.fixture
def store(model: DiekaeModel, tmp_path: Path) -> KnowledgeStore:
    store = KnowledgeStore(tmp_path / "store", model)
    store.add(TEXTS)
    return store


def everything(store: KnowledgeStore) -> tuple:
    """Return all that can be read of a store."""
    documents = store.documents()
    texts = [store.text(document.id) for document in documents]
    prepared = [len(store.prepared(document.id)) for document in documents]
    return documents, texts, prepared, store.search("castle", 9), store.catalogue.passages.match_words(["tower"])


@pytest.mark.parametrize("flips", [pytest.param(60, id="60"), pytest.param(400, id="400", marks=pytest.mark.long)])
def test_a_flipped_bit_of_the_catalogue_is_noticed(
    store: KnowledgeStore, flips: int, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """A bit that nothing uses may change; whatever is read is right, or it is refused, or `verify` reports it."""
    want = everything(store)
    store.close()
    content = store.catalogue.path.read_bytes()
    draw, noticed = random.Random(0), 0
    used = [place for place, byte in enumerate(content) if byte]
    for number in range(flips):
        folder = tmp_path / str(number)
        shutil.copytree(store.folder, folder)
        damaged = bytearray(content)
        damaged[draw.choice(used)] ^= 1 << draw.randrange(8)
        (folder / "catalogue.sqlite").write_bytes(damaged)
        copy = None
        try:
            copy = KnowledgeStore(folder)
            same = everything(copy) == want
            noticed += bool(faults := copy.verify())
            assert same or faults, number
        except (OSError, ValueError):
            noticed += 1
        finally:
            if copy is not None:
                copy.close()
        shutil.rmtree(folder)
    assert noticed > 0.4 * flips, "most bytes are of tables"
    record_property("tries", flips)


@pytest.mark.parametrize(
    ("change", "kind", "repaired"),
    [
        ("UPDATE documents SET text = replace(text, 'red', 'tan') WHERE number = 1", "text", False),
        ("UPDATE documents SET title = 'Fortress' WHERE number = 1", "index", True),
        ("UPDATE documents SET characters = 7 WHERE number = 1", "index", True),
        ("UPDATE passages SET start = start + 1 WHERE document = 1", "index", True),
        ("UPDATE passages SET heading = 'Keep' WHERE document = 1", "index", True),
        ("UPDATE passages SET vector = zeroblob(length(vector)) WHERE document = 1", "index", True),
        ("DELETE FROM passages WHERE document = 1", "index", True),
        ("UPDATE terms SET words = 'silver ship' WHERE rowid = 1", "index", True),
        ("INSERT INTO terms(rowid, words) VALUES (99, 'silver ship')", "index", True),
        ("UPDATE memories SET slots = 1 WHERE rowid = 1", "damaged", True),
    ],
)
def test_verify_compares_rows_and_index_with_the_texts(
    store: KnowledgeStore, change: str, kind: str, repaired: bool
) -> None:
    want = everything(store)
    with store.catalogue.writing() as connection:
        connection.execute(change)
    for _ in range(2):
        faults = store.verify()
        assert {fault.kind for fault in faults} == {kind}, "verify alone changes nothing"
    assert {fault.repaired for fault in store.verify(repair=True)} == {repaired}
    if repaired:
        assert not store.verify()
        documents, *rest = everything(KnowledgeStore(store.folder, store.model))
        assert [document.title for document in documents] == [document.title for document in want[0]]
        assert rest[:2] == list(want[1:3])
        assert [passage.text for passage in rest[2]] == [passage.text for passage in want[3]]
    else:
        with pytest.raises(ValueError, match=r"the text of document .* is damaged"):
            store.text(faults[0].document)
        with pytest.raises(ValueError, match=r"the text of document .* is damaged"):
            store.search("castle", 9)
        store.remove(faults[0].document)
        assert not store.verify()


def test_a_file_that_is_no_catalogue_is_refused_and_not_changed(store: KnowledgeStore) -> None:
    path = store.catalogue.path
    store.close()
    path.unlink()
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE bookmarks (address TEXT)")
    for content in (b"", path.read_bytes()):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is not a catalogue: it is empty, damaged, or of another program"):
            KnowledgeStore(store.folder)
        assert path.read_bytes() == content
    path.unlink()
    with pytest.raises(ValueError, match="is missing, but its folder holds prepared knowledge"):
        KnowledgeStore(store.folder)
    assert len(list(store.folder.rglob("*.safetensors"))) == 3, "nothing is taken for an orphan"


def to_layout_2(path: Path) -> None:
    """Turn a catalogue into one that an older version wrote."""
    with closing(sqlite3.connect(path)) as connection:
        for index in ("documents_titled", "memories_of"):
            connection.execute(f"DROP INDEX {index}")
        for table in ("documents", "passages", "sources", "memories"):
            connection.execute(f"ALTER TABLE {table} DROP COLUMN digest")
        for column in ("sources DROP COLUMN status", "sources DROP COLUMN inode", "documents DROP COLUMN characters"):
            connection.execute(f"ALTER TABLE {column}")
        connection.execute("UPDATE terms SET words = replace(words, ' 猫', '')")
        connection.execute("PRAGMA user_version = 2")
        connection.execute("PRAGMA application_id = 0")
        connection.commit()


def test_a_store_of_layout_2_is_read(store: KnowledgeStore, model: DiekaeModel) -> None:
    store.add("the black cat is 黒猫")
    want = everything(store)
    old = store.folder / "memories" / store.bank / "old.safetensors"  # older versions had one flat folder
    file = store.catalogue.prepared_files.select(store.bank, document_id(TEXTS[0]))
    (store.folder / file.file).rename(old)
    with store.catalogue.writing() as connection:
        connection.execute(
            "UPDATE memories SET file = ? WHERE file = ?", (old.relative_to(store.folder).as_posix(), file.file)
        )
    store.close()
    to_layout_2(store.catalogue.path)
    again = KnowledgeStore(store.folder, model)
    assert everything(again) == want and not again.verify()
    assert again.catalogue.passages.match_words(["猫"]), "its words are made again"
    again.close()
    assert everything(KnowledgeStore(store.folder)) == want


def test_a_folder_in_place_of_a_prepared_file_is_a_missing_file(store: KnowledgeStore) -> None:
    file = next(iter(store.catalogue.prepared_files.all()))
    (store.folder / file.file).unlink()
    (store.folder / file.file).mkdir()
    assert [(fault.kind, fault.document) for fault in store.verify(repair=True)] == [("missing", file.document)]
    assert not store.verify() and len(store.prepared(file.document)) == file.slots
