"""A store from someone else: it makes us read and delete nothing outside of its folder."""

import os
import sqlite3
from pathlib import Path

import pytest

from diekae import DiekaeModel
from diekae.store import KnowledgeStore
from diekae.store.catalogue.tables import write_digest
from diekae.store.layout import path_in_store

CASTLE = "the castle is red"


@pytest.fixture
def store(model: DiekaeModel, tmp_path: Path) -> KnowledgeStore:
    store = KnowledgeStore(tmp_path / "store", model)
    store.add(CASTLE)
    return store


@pytest.fixture
def outside(model: DiekaeModel, tmp_path: Path) -> Path:
    """Return a file outside of the store that could be loaded."""
    path = tmp_path / "outside" / "bank" / "private.safetensors"
    model.prepare("private words").save(path)
    return path


def set_file(store: KnowledgeStore, file: str) -> None:
    with store.catalogue.writing() as connection:
        connection.execute("UPDATE memories SET file = ?", (file,))
        write_digest(connection, "memories")


def ways_out(store: KnowledgeStore, outside: Path) -> list[str]:
    """Return paths for the catalogue that lead to a file outside."""
    inside = store.folder / "memories" / "bank"
    inside.mkdir(exist_ok=True)
    for name, target in (("link.safetensors", outside), ("ab", outside.parent)):
        (inside / name).unlink(missing_ok=True)
        (inside / name).symlink_to(target)
    return [
        str(outside),
        os.path.relpath(outside, store.folder),
        "memories/../../outside/bank/private.safetensors",
        "memories/bank/link.safetensors",
        "memories/bank/ab/private.safetensors",
        "catalogue.sqlite",
        "memories",
        "memories/bank/nul\x00.safetensors",
        "",
    ]


def test_a_row_cannot_name_a_file_outside(store: KnowledgeStore, outside: Path, model: DiekaeModel) -> None:
    for number, file in enumerate(ways_out(store, outside)):
        ways_out(store, outside)  # a repair removes the links
        set_file(store, file)
        with pytest.raises(ValueError, match="nothing is read there"):
            store.prepared(CASTLE)
        assert "link" in {fault.kind for fault in store.verify()}
        if number % 2:
            store.remove(CASTLE)
        else:
            store.verify(repair=True)
        assert outside.exists() and store.catalogue.path.exists()
        store.add(CASTLE)
    assert model.prepare(CASTLE).token_count == store.prepared(CASTLE).token_count


def test_a_folder_of_prepared_files_that_is_a_link_is_not_cleaned(store: KnowledgeStore, outside: Path) -> None:
    prepared = store.folder / "memories"
    prepared.rename(store.folder / "elsewhere")
    prepared.symlink_to(outside.parents[1])
    kinds = {fault.kind for fault in store.verify(repair=True)}
    assert kinds == {"link"} and outside.exists()
    with pytest.raises(ValueError, match="is a link"):
        store.prepared(CASTLE)
    assert list(outside.parents[1].rglob("*.safetensors")) == [outside], "nothing is written there"


def test_links_among_the_prepared_files_are_removed_without_their_targets(store: KnowledgeStore, outside: Path) -> None:
    ways_out(store, outside)
    faults = store.verify(repair=True)
    assert {(fault.kind, fault.file) for fault in faults} == {
        ("link", "memories/bank/link.safetensors"),
        ("link", "memories/bank/ab"),
    }
    assert outside.exists() and not store.verify() and len(store.prepared(CASTLE))


@pytest.mark.parametrize("ending", ["", "-wal", "-shm", "-journal"])
def test_a_catalogue_that_is_a_link_or_a_pipe_is_refused(store: KnowledgeStore, tmp_path: Path, ending: str) -> None:
    """SQLite would write its log into the file that a link beside the catalogue leads to."""
    store.close()
    private, part = tmp_path / "private", tmp_path / "store" / f"catalogue.sqlite{ending}"
    private.write_bytes(store.catalogue.path.read_bytes())
    before = private.read_bytes()
    part.unlink(missing_ok=True)
    part.symlink_to(private)
    with pytest.raises(ValueError, match="is a link or no file"):
        KnowledgeStore(store.folder)
    part.unlink()
    os.mkfifo(part)
    with pytest.raises(ValueError, match="is a link or no file"):
        KnowledgeStore(store.folder)
    assert private.read_bytes() == before


def test_a_pipe_among_the_prepared_files_is_not_waited_for(store: KnowledgeStore) -> None:
    (path,) = store.folder.rglob("*.safetensors")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ValueError, match="is missing"):
        store.prepared(CASTLE)
    assert [fault.kind for fault in store.verify(repair=True)] == ["missing"]
    assert not store.verify() and len(store.prepared(CASTLE))


def test_a_circle_of_links_is_no_document(store: KnowledgeStore, tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    with pytest.raises(ValueError, match="circle' cannot be the path of a file or folder"):
        store.add(tmp_path / "circle")
    with pytest.raises(ValueError, match="no document"):
        store.text(str(tmp_path / "circle"))


def test_the_folder_of_a_store_may_be_a_link(store: KnowledgeStore, model: DiekaeModel, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(store.folder)
    linked = KnowledgeStore(tmp_path / "link", model)
    assert len(linked.prepared(CASTLE)) and len(linked.add("the tower is blue").prepared) == 1 and not linked.verify()


def test_a_trigger_of_a_foreign_catalogue_cannot_call_functions(store: KnowledgeStore) -> None:
    with sqlite3.connect(store.catalogue.path) as connection:
        connection.execute("CREATE TRIGGER t AFTER DELETE ON documents BEGIN SELECT load_extension('x'); END")
    with pytest.raises(ValueError, match="unsafe use of load_extension"):
        store.remove(CASTLE)


def test_only_names_of_prepared_files_are_in_the_store(tmp_path: Path) -> None:
    for file in ("memories/b-1/ab/abcd-12.safetensors", "memories/b-1/abcd-12.safetensors"):
        assert path_in_store(tmp_path, file) == tmp_path / file
