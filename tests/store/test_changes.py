"""Folders that change: renamed, changed, unreadable and linked files, and documents that others remove meanwhile."""

import copy
import os
import pickle
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from builders import write_pdf
from diekae import DiekaeModel
from diekae.store import KnowledgeStore, verify

CASTLE, RIVER = "the castle is red", "a river has seven dogs"


@pytest.fixture
def store(model: DiekaeModel, tmp_path: Path) -> KnowledgeStore:
    return KnowledgeStore(tmp_path / "store", model)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "castle.txt").write_text(CASTLE)
    return tmp_path / "docs"


@pytest.mark.parametrize("replaced", [False, True])
def test_a_change_that_keeps_size_and_time_is_read(store: KnowledgeStore, folder: Path, replaced: bool) -> None:
    path = folder / "castle.txt"
    for text in ("the castle is tan", "the castle is old", "the castle is new"):
        store.add(folder)
        before = path.stat()
        changed = folder / ".other" if replaced else path
        changed.write_text(text)
        os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))
        os.replace(changed, path)
        assert store.add(folder).unchanged == 0
        assert [store.text(document.id) for document in store.documents()] == [text]


@pytest.mark.parametrize("prune", [False, True])
def test_a_renamed_file_has_its_new_name(store: KnowledgeStore, folder: Path, prune: bool) -> None:
    (document,) = store.add(folder).ids
    (folder / "castle.txt").rename(folder / "fortress.txt")
    result = store.add(folder, prune=prune)
    assert not result.prepared and not result.gone and result.ids == [document]
    (stored,) = store.documents()
    assert stored.title == "fortress.txt" and stored.places == (str(folder / "fortress.txt"),)
    assert store.search("fortress")[0].coverage > 0 and store.search("castle txt")[0].title == "fortress.txt"
    with pytest.raises(ValueError, match="no document"):
        store.text("castle.txt")
    assert not store.verify()


def test_a_copied_file_has_both_names_and_the_first_title(store: KnowledgeStore, folder: Path) -> None:
    store.add(folder)
    (folder / "fortress.txt").write_text(CASTLE)
    store.add(folder)
    (stored,) = store.documents()
    assert stored.title == "castle.txt" and len(stored.places) == 2
    (folder / "castle.txt").unlink()
    store.add(folder, prune=True)
    assert [document.title for document in store.documents()] == ["fortress.txt"]


def test_files_that_exist_are_never_pruned(
    store: KnowledgeStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither those of a folder that cannot be listed, nor those that only their name brought in."""
    for name in ("secret/a.txt", ".hidden/b.txt", "noname"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"the tower of {name}")
    store.add([folder, folder / ".hidden" / "b.txt", folder / "noname"])
    assert len(store.documents()) == 4
    list_folder, read_status = os.scandir, os.stat

    def forbidden(function: Callable) -> Callable:  # tests may run as root, who may read everything
        def run(path, *args, **options):
            if "secret" in os.fspath(path):
                raise PermissionError(13, "Permission denied", os.fspath(path))
            return function(path, *args, **options)

        return run

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", forbidden(list_folder))
        patch.setattr(os, "stat", forbidden(read_status))
        result = store.add(folder, prune=True)
    assert not result.gone and str(folder / "secret") in result.skipped
    assert len(store.documents()) == 4
    (folder / ".hidden" / "b.txt").unlink()
    assert store.add(folder, prune=True).gone == [str(folder / ".hidden" / "b.txt")]
    assert len(store.documents()) == 3


def test_one_bad_file_never_stops_a_folder(store: KnowledgeStore, folder: Path) -> None:
    broken_pdf = write_pdf(folder / "filter.pdf", "The tower is red.")
    broken_pdf.write_bytes(broken_pdf.read_bytes().replace(b"/Length", b"/Filter /Nonsense /Length", 1))
    deep_pdf = write_pdf(folder / "deep.pdf", "The tower is red.")
    deep_pdf.write_bytes(deep_pdf.read_bytes().replace(b"/Length", b"/Deep " + b"[" * 5000 + b" /Length", 1))
    (folder / "lists.html").write_text("<ul><li>a" * 500)
    (folder / "deep.json").write_text("[" * 100_000)
    (folder / "zip.docx").write_bytes(b"PK\x03\x04")
    (folder / os.fsdecode(b"ch\xe2teau.txt")).write_text(RIVER)
    (folder / "cut.html").write_text("<p>the sea is blue</p><![x[ y")
    (folder / "zz.txt").write_text(RIVER)
    result = store.add(folder)
    titles = {document.title for document in store.documents()}
    assert {"castle.txt", "cut.html", "zz.txt"} <= titles
    failed = {Path(path).name: reason for path, reason in result.failed}
    assert {"filter.pdf", "lists.html", "deep.json", "zip.docx", "ch\\udce2teau.txt"} <= failed.keys()
    assert len(titles) + len(failed) == 9, "each is read, or listed with the reason"
    assert "not UTF-8; rename" in failed["ch\\udce2teau.txt"]


def test_paths_with_line_breaks_stay_whole(store: KnowledgeStore, folder: Path) -> None:
    path = folder / "two\nlines.txt"
    path.write_text(RIVER)
    store.add(folder)
    assert {document.places for document in store.documents()} == {(str(path),), (str(folder / "castle.txt"),)}
    assert store.text(str(path)) == RIVER


def test_a_name_is_found_with_composed_and_decomposed_accents(store: KnowledgeStore, folder: Path) -> None:
    composed, decomposed = "ch\u00e2teau.txt", "cha\u0302teau.txt"
    for written, asked in ((composed, decomposed), (decomposed, composed)):
        (folder / written).write_text(f"the tower {written}")
        (document,) = store.add(folder / written).ids
        assert store.text(asked) == store.text(str(folder / asked)) == f"the tower {written}"
        store.remove(document)
        (folder / written).unlink()


def test_removal_beside_every_other_call_raises_plain_errors_only(store: KnowledgeStore, model: DiekaeModel) -> None:
    errors: list[BaseException] = []
    end = threading.Event()

    def repeat(call: Callable[[KnowledgeStore], object]) -> None:
        mine = KnowledgeStore(store.folder, model)
        while not end.is_set():
            try:
                call(mine)
            except ValueError as error:
                if "no document" not in str(error) and "no longer in" not in str(error):
                    errors.append(error)
            except BaseException as error:
                errors.append(error)
        mine.close()

    def read(mine: KnowledgeStore) -> None:
        if passages := mine.search("castle", 3):
            mine.read(passages)

    calls: list[Callable[[KnowledgeStore], object]] = [
        read,
        lambda mine: mine.text(CASTLE),
        lambda mine: mine.prepared(CASTLE),
        lambda mine: mine.prepare_missing(),
        lambda mine: mine.add([CASTLE, RIVER]),
        lambda mine: mine.remove(CASTLE),
        lambda mine: mine.remove(CASTLE),
        lambda mine: [document.title for document in mine.documents()],
    ]
    threads = [threading.Thread(target=repeat, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    end.wait(3)
    end.set()
    for thread in threads:
        thread.join()
    assert not errors
    store.verify(repair=True)
    assert not store.verify()


def test_what_is_being_removed_is_no_orphan(
    model: DiekaeModel, store: KnowledgeStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (id,) = store.add(folder).ids
    rows_are_gone, unlink = threading.Event(), Path.unlink

    def unlink_slowly(path: Path, missing_ok: bool = False) -> None:
        if threading.current_thread() is remover:
            rows_are_gone.set()
            time.sleep(0.3)
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(verify, "PATIENCE", 20.0)  # ends as soon as the file is gone
    monkeypatch.setattr(Path, "unlink", unlink_slowly)
    remover = threading.Thread(target=lambda: KnowledgeStore(store.folder, model).remove(id))
    remover.start()
    assert rows_are_gone.wait(10) and list(store.folder.glob("memories/**/*.safetensors"))
    assert store.verify() == []
    remover.join()
    monkeypatch.setattr(verify, "PATIENCE", 0.1)
    stray = store.folder / "memories" / "stray.safetensors"
    stray.write_text("left behind")
    assert [(fault.kind, fault.file) for fault in store.verify()] == [("orphan", "memories/stray.safetensors")]
    assert store.verify(repair=True) and not stray.exists()


def test_a_document_too_long_for_memory_is_left_out_and_nothing_of_it_is_kept(
    store: KnowledgeStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = "the river and the sea " * 30
    (folder / "long.txt").write_text(long)
    monkeypatch.setattr("diekae.store.prepared_folder.LONG", 100)
    monkeypatch.setattr("diekae.prepare.free_memory", lambda _device: 1000)
    result = store.add(folder)
    ((path, reason),) = result.failed
    assert path == str(folder / "long.txt") and "GB of memory are free" in reason
    assert result.prepared == result.ids and [document.title for document in store.documents()] == ["castle.txt"]
    calls: list[Callable[[], object]] = [
        lambda: store.add(folder / "long.txt"),
        lambda: store.add(long),
        lambda: store.add_text(long, title="long"),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="GB of memory are free"):
            call()
    assert len(store.documents()) == 1
    monkeypatch.undo()
    assert len(store.add(folder).prepared) == 1


def test_a_forked_process_takes_no_part_in_its_parents_transaction(store: KnowledgeStore, folder: Path) -> None:
    store.add(folder)
    with store.catalogue.reading():
        assert len(store.documents()) == 1
        child = os.fork()
        if child == 0:
            try:
                store.add(RIVER)
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
    assert {document.title for document in store.documents()} == {"castle.txt", RIVER}, "what it added is there"
    assert not store.verify()


def test_a_store_is_opened_again_in_place_of_being_copied(store: KnowledgeStore) -> None:
    for way in (copy.copy, copy.deepcopy, pickle.dumps):
        if way is not copy.copy:
            with pytest.raises(ValueError, match=r"cannot be copied or pickled.*KnowledgeStore\(folder, model\)"):
                way(store)
        with pytest.raises(ValueError, match="cannot be copied or pickled"):
            way(store.catalogue)


def test_values_of_other_types_are_named(store: KnowledgeStore, model: DiekaeModel) -> None:
    for value in (None, 5, [None], b"text"):
        with pytest.raises(TypeError, match=r"a document is (None|5|116); expected a text \(str\), or a file"):
            store.add(value)  # type: ignore[arg-type]
    for name in (store.text, store.remove, store.prepared):
        with pytest.raises(TypeError, match="5 names no document; expected an id, a file or a title"):
            name(5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="the question is None; expected a text"):
        store.search(None)  # type: ignore[arg-type]
    for most in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="most_bytes=.* must be at least 1"):
            KnowledgeStore(store.folder, model, most_bytes=most)  # type: ignore[arg-type]
    assert not store.documents()


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("committed", [False, True])
def test_an_interrupted_add_leaves_a_file_only_with_its_row(
    store: KnowledgeStore,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: type[BaseException],
    committed: bool,
) -> None:
    insert, writing = store.catalogue.prepared_files.insert, store.catalogue.writing

    def fail(_file: object) -> None:
        raise error

    @contextmanager
    def commit_and_fail() -> Iterator[sqlite3.Connection]:
        with writing() as connection:
            yield connection
        if inserted and not connection.in_transaction:  # the outermost block has ended
            raise error

    inserted: list[object] = []
    with monkeypatch.context() as patch:
        if committed:
            patch.setattr(store.catalogue.prepared_files, "insert", lambda file: (inserted.append(file), insert(file)))
            patch.setattr(store.catalogue, "writing", commit_and_fail)
        else:
            patch.setattr(store.catalogue.prepared_files, "insert", fail)
        with pytest.raises(error):
            store.add(folder)
    assert len(list(store.folder.rglob("*.safetensors"))) == committed
    assert store.verify() == []
    assert len(store.add(folder).prepared) == (not committed)
