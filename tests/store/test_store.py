"""The knowledge store: prepared once, found again, changed, removed, damaged, shared."""

import math
import os
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from builders import make_model
from diekae import DiekaeModel, PreparedKnowledge
from diekae.store import KnowledgeStore
from diekae.store.catalogue import DocumentSource, IndexedPassage
from diekae.store.intake import document_id

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
    """Whether two memories are one but for the rounding that reading several texts at once makes."""
    close = all(torch.allclose(tensor, other.tensors[name], atol=1e-5) for name, tensor in one.tensors.items())
    return close and (one.position, one.bank) == (other.position, other.bank)


def counting(model: DiekaeModel, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every text that the model prepares from now on."""
    seen: list[str] = []
    prepare = model.prepare_many

    def note(texts, **options):
        seen.extend(texts)
        return prepare(texts, **options)

    monkeypatch.setattr(model, "prepare_many", note)
    return seen


def test_a_memory_comes_back_and_generates_the_same(model: DiekaeModel, store: KnowledgeStore) -> None:
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


def test_only_what_changed_in_a_folder_is_read_and_prepared(
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
    os.utime(folder / "deep" / "river.md", ns=(1, 1))  # touched, but of the same text
    changed = store.add(folder)
    assert len(changed.prepared) == len(seen) == 1 and changed.unchanged == 0
    assert {store.text(entry.id) for entry in store.documents()} == {RIVER, SHIP}, "the old text is left"
    assert len(list(store.folder.rglob("*.safetensors"))) == 2 and not store.verify()
    assert store.add(folder).unchanged == 2


def test_files_that_are_gone_are_named_and_pruned_when_asked(store: KnowledgeStore, tmp_path: Path) -> None:
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
    assert not store.verify() and {found.title for found in store.search("river")} == {"castle.txt"}


def test_a_text_that_stands_elsewhere_too_stays(store: KnowledgeStore, tmp_path: Path) -> None:
    path = tmp_path / "castle.txt"
    path.write_text(CASTLE)
    ids = store.add([path, CASTLE]).ids
    path.write_text(RIVER)
    store.add(path)
    assert store.text(ids[0]) == CASTLE and len(store.documents()) == 2


def test_bad_files_of_a_folder_are_left_out_and_named(store: KnowledgeStore, tmp_path: Path) -> None:
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


def test_documents_are_named_by_id_beginning_file_and_title(store: KnowledgeStore, tmp_path: Path) -> None:
    path = tmp_path / "castle.txt"
    path.write_text(CASTLE)
    castle, river = store.add([path, RIVER]).ids
    for name in (castle, castle[:8], str(path), "castle.txt"):
        assert store.text(name) == CASTLE
    assert store.text(RIVER) == RIVER, "a short text is its own title"
    with pytest.raises(ValueError, match="no document 'abc'"):
        store.text("abc")
    assert store.remove(castle[:8]).id == castle
    assert [entry.id for entry in store.documents()] == [river]
    with pytest.raises(ValueError, match="no document"):
        store.prepared(castle)
    assert len(list(store.folder.rglob("*.safetensors"))) == 1


def test_a_question_leads_to_the_document_that_answers_it(store: KnowledgeStore) -> None:
    castle, river, ship = store.add([CASTLE, RIVER, SHIP]).ids
    assert [found.id for found in store.search("who built the castle?", 1)] == [castle]
    assert store.search("DOGS & rivers")[0].id == river, "case and endings do not matter"
    assert store.search('"ship" OR NEAR(', 1)[0].id == ship, "a question is no query language"
    for question in ("elephants", "?!", " "):
        assert len(store.search(question)) == 3, "in a store that is not empty, something is always found"
    scores = [found.score for found in store.search("the silver castle in the north")]
    assert scores == sorted(scores, reverse=True) and len(scores) >= 2
    with pytest.raises(ValueError, match="k=0"):
        store.search("castle", 0)


def test_a_store_of_two_tells_them_apart(store: KnowledgeStore) -> None:
    castle, river = store.add([CASTLE, RIVER]).ids
    assert store.search("where are the dogs in the north of the two", 1)[0].id == castle
    assert store.search("where are the dogs", 1)[0].id == river, "words that make a question do not count"
    assert store.search("where are the")[0].id == castle, "unless there are no others"


def test_an_empty_store_leads_nowhere(store: KnowledgeStore) -> None:
    assert store.search("who built the castle?") == []
    store.remove(store.add(CASTLE).ids[0])
    assert store.search("who built the castle?") == []


def test_words_are_ranked_by_bm25(store: KnowledgeStore) -> None:
    """Scores by hand (Robertson et al., 1994): k1 1.2 and b 0.75 as SQLite has them, weights as Lucene's."""
    texts = ["red bridge", "red red house by the sea", "blue road", "cold wind", "old stone"]
    for text in texts:
        passage = IndexedPassage(0, len(text), "", text, b"\0\0")
        source = DocumentSource(document_id(text), document_id(text))
        store.catalogue.documents.put(source, text, text, [passage])
    lengths = [len(text.split()) for text in texts]
    mean = sum(lengths) / len(lengths)

    def score(row: int, count: int, holding: int) -> float:
        inverse = math.log(1 + (len(texts) - holding + 0.5) / (holding + 0.5))
        return inverse * count * 2.2 / (count + 1.2 * (0.25 + 0.75 * lengths[row] / mean))

    shared = store.catalogue.passages.match_words(["red", "sea"])
    assert {number: one.score for number, one in shared.items()} == pytest.approx(
        {1: score(0, 1, 2), 2: score(1, 2, 2) + score(1, 1, 1)}, rel=1e-4
    )
    assert store.catalogue.passages.match_words(["red"])[1].score == pytest.approx(score(0, 1, 2), rel=1e-4)


def test_a_passage_is_ranked_by_words_and_likeness_together(model: DiekaeModel, tmp_path: Path) -> None:
    texts = ["red bridge", "red red house by the sea", "blue road", "cold wind", "old stone"]
    angles = {"red": 0.0, "red bridge": 0.3, "red red house by the sea": 2.0, "blue road": 1.5}

    def embed(given: Sequence[str]) -> np.ndarray:
        turns = [angles.get(text.split(".")[0].strip(), 3.0) for text in given]
        return np.array([[math.cos(turn), math.sin(turn)] for turn in turns], np.float32)

    store = KnowledgeStore(tmp_path / "store", model, embed=embed)
    ids = store.add(texts).ids
    shared = store.catalogue.passages.match_words(["red"])
    best = max(one.score for one in shared.values())
    share = {text: shared[number].score / best if number in shared else 0.0 for number, text in enumerate(texts, 1)}
    likeness = {text: math.cos(angles.get(text, 3.0)) for text in texts}
    assert sorted(share.values())[:3] == [0, 0, 0] and max(share.values()) == 1 and 0.5 < sorted(share.values())[3] < 1
    found = store.search("red", 5)
    order = sorted(texts, key=lambda text: -share[text] - likeness[text])
    assert [one.id for one in found] == [ids[texts.index(text)] for text in order]
    for one in found:
        assert one.likeness == pytest.approx(likeness[one.text], abs=2e-3), "vectors are kept in fp16"
        assert one.score == pytest.approx(share[one.text] + one.likeness, rel=1e-4)


def test_another_bank_prepares_for_itself(store: KnowledgeStore, model: DiekaeModel) -> None:
    (document,) = store.add(CASTLE).ids
    other = make_model("attention", decoder=model.decoder, seed=5)
    theirs = KnowledgeStore(store.folder, other)
    assert theirs.documents()[0].slots is None, "the document is there, its memory is not"
    prepared = theirs.prepared(document)
    assert prepared.bank == other.bank.fingerprint() != store.prepared(document).bank
    assert same(prepared, other.prepare(CASTLE)) and same(store.prepared(document), model.prepare(CASTLE))
    with pytest.raises(ValueError, match="prepare the knowledge again"):
        model(**model.tokenize("what"), knowledge=prepared)
    retold = make_model("attention", decoder=model.decoder, template="about {knowledge}")
    assert retold.bank.fingerprint() == model.bank.fingerprint()
    assert KnowledgeStore(store.folder, retold).documents()[0].slots is None, "another template is another memory"
    assert len(theirs.prepare_missing()) == 0
    theirs.remove(document)
    assert not list(store.folder.rglob("*.safetensors")), "the memories of all banks are gone"


def test_without_a_model_a_store_is_listed_searched_and_read(store: KnowledgeStore, model: DiekaeModel) -> None:
    (document,) = store.add(CASTLE).ids
    bare = KnowledgeStore(store.folder)
    assert bare.documents() == store.documents() and bare.documents()[0].slots
    assert same(bare.prepared(document), model.prepare(CASTLE))
    assert bare.search("castle")[0].id == document and not bare.verify()
    with pytest.raises(ValueError, match="needs a model"):
        bare.add(RIVER)


def test_a_memory_is_mapped_and_not_copied(store: KnowledgeStore) -> None:
    (document,) = store.add(CASTLE).ids
    prepared = store.prepared(document)
    (path,) = store.folder.rglob("*.safetensors")
    assert path.name in Path("/proc/self/maps").read_text(), "the file is not mapped"
    store.remove(document)
    assert torch.isfinite(prepared.tensors["keys"]).all(), "what is mapped stays readable after its file is gone"


def test_ten_thousand_documents_are_listed_in_less_than_a_second(store: KnowledgeStore) -> None:
    vector = np.zeros(256, np.float16).tobytes()
    with store.catalogue.writing() as connection:
        for number in range(10_000):
            key, text = f"{number:064x}", f"document {number} " + "of words and more words " * 40
            connection.execute("INSERT INTO documents VALUES (?, ?, ?, ?)", (number + 1, key, f"t{number}", text))
            row = (number + 1, number + 1, 0, len(text), "", vector)
            connection.execute("INSERT INTO passages VALUES (?, ?, ?, ?, ?, ?)", row)
            connection.execute("INSERT INTO terms(rowid, words) VALUES (?, ?)", (number + 1, text))
            connection.execute("INSERT INTO sources VALUES (?, ?, 1, 1)", (f"/docs/{number}.txt", key))
            row = (key, store.bank, f"memories/{number}", "0", 1, 100, "exact")
            connection.execute("INSERT INTO memories VALUES (?, ?, ?, ?, ?, ?, ?)", row)
    start = time.process_time()  # of this process alone: others share the machine
    entries = KnowledgeStore(store.folder, store.model).documents()
    seconds = time.process_time() - start
    assert len(entries) == 10_000 and entries[77].places == ("/docs/77.txt",) and entries[77].slots == 100
    assert seconds < 1
    store.search("warm")  # the embedder is loaded once a process, and the vectors are read once a store
    start = time.process_time()
    assert store.search("document 4321", 1)[0].title == "t4321"
    assert time.process_time() - start < 1


def test_a_file_that_is_no_catalogue_is_named(tmp_path: Path) -> None:
    (tmp_path / "catalogue.sqlite").write_bytes(b"not a data base, but long enough to be looked at" * 20)
    with pytest.raises(ValueError, match="is not a catalogue, or is damaged"):
        KnowledgeStore(tmp_path)


def test_a_newer_layout_is_refused(store: KnowledgeStore) -> None:
    with sqlite3.connect(store.catalogue.path) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(ValueError, match="layout 99, newer than 2"):
        KnowledgeStore(store.folder)


def test_a_name_given_as_a_text_is_refused(
    store: KnowledgeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A `str` is always a text: one that names a file or folder would silently be added as a document of one word."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "castle.txt").write_text(CASTLE)
    for name, what in (("docs", "folder"), ("docs/castle.txt", "file"), (str(tmp_path / "docs"), "folder")):
        with pytest.raises(ValueError, match=rf"is a text, and a {what} of that name exists; .* give Path\('"):
            store.add([RIVER, name])
    assert store.documents() == [], "nothing is half added"
    (document,) = store.add("docs\n").ids
    assert store.text(document) == "docs\n", "the words themselves"
    assert len(store.add([Path("docs"), "a" * 5000, "no\x00name"]).ids) == 3


def test_what_was_added_is_prepared_whatever_files_are_there_later(
    store: KnowledgeStore, model: DiekaeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add("castle")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "castle").write_text(CASTLE)
    other = KnowledgeStore(store.folder, make_model("attention", decoder=model.decoder, seed=5))
    assert len(other.prepare_missing()) == 1


def test_wrong_calls_are_named(store: KnowledgeStore, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a text is empty"):
        store.add([CASTLE, " "])
    with pytest.raises(FileNotFoundError, match="expected a file or a folder"):
        store.add(tmp_path / "none")
    assert store.documents() == [], "nothing is half added"
    with pytest.raises(ValueError, match="precision='int4'"):
        KnowledgeStore(tmp_path, precision="int4")
    with pytest.raises(ValueError, match="no document is named"):
        store.prepared()
