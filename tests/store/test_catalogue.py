"""The catalogue: passages, words and vectors always fit the documents, also with several processes."""

import os
import random
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from builders import WORDS
from diekae import DiekaeModel
from diekae.store import KnowledgeStore
from diekae.store.catalogue import Catalogue, document_id
from diekae.store.catalogue.tables import insert
from diekae.store.embedders import EmbedFunction


def embedder(width: int) -> EmbedFunction:
    """Return an embedder that counts letters; its vectors have length 1."""

    def embed(texts: Sequence[str]) -> np.ndarray:
        counts = np.array([[text.count(chr(97 + n)) + 0.5 for n in range(width)] for text in texts], np.float32)
        return counts / np.linalg.norm(counts.reshape(-1, width), axis=1, keepdims=True)

    return embed


@pytest.fixture
def store(model: DiekaeModel, tmp_path: Path) -> KnowledgeStore:
    return KnowledgeStore(tmp_path / "store", model, embedder=embedder(8))


def check_index(store: KnowledgeStore) -> None:
    """Check that every passage has words, every document has passages, and there is nothing else."""
    with store.catalogue.reading() as connection:
        numbers = {row[0] for row in connection.execute("SELECT number FROM passages")}
        words = {row[0] for row in connection.execute("SELECT rowid FROM terms")}
        of = {row[0] for row in connection.execute("SELECT document FROM passages")}
        documents = {row[0] for row in connection.execute("SELECT number FROM documents")}
    assert numbers == words and of == documents
    vectors = store.catalogue.passages.vectors()
    assert set(vectors.numbers) == numbers and len(vectors.matrix) == len(numbers)


@pytest.mark.parametrize("seed", range(4))
def test_search_finds_exactly_the_documents_in_the_store(store: KnowledgeStore, seed: int) -> None:
    draw, there = random.Random(seed), dict[str, str]()
    other = KnowledgeStore(store.folder, store.model, embedder=embedder(8))
    for step in range(25):
        writer = draw.choice([store, other])
        if there and draw.random() < 0.4:
            writer.remove(there.pop(draw.choice(list(there))))
        else:
            name = f"only{seed}x{step}"
            text = f"{name} " + " ".join(draw.choice(WORDS) for _ in range(draw.randint(3, 400)))
            (there[name],) = writer.add(text, prepare=False).ids
        check_index(writer)
        for reader in (store, other):
            passages = reader.search("castle", 10_000)
            assert {passage.id for passage in passages} == set(there.values())
            assert all(reader.text(passage.id)[passage.start : passage.end] == passage.text for passage in passages)
            for name, document in there.items():
                assert reader.search(name, 1)[0].id == document
    gone = {f"only{seed}x{step}" for step in range(25)} - there.keys()
    assert gone and not any(store.catalogue.passages.match_words([name]) for name in gone)


def test_a_changed_file_is_found_by_its_new_words_only(store: KnowledgeStore, tmp_path: Path) -> None:
    path = tmp_path / "fact.txt"
    path.write_text("the castle is red")
    store.add(path)
    path.write_text("the tower is blue, and old")
    store.add(path)
    check_index(store)
    assert (
        not store.catalogue.passages.match_words(["castle"])
        and len(store.catalogue.passages.match_words(["tower"])) == 1
    )
    assert [passage.text for passage in store.search("castle", 5)] == ["the tower is blue, and old"]


def test_a_store_of_layout_1_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "catalogue.sqlite") as connection:
        connection.execute(
            "CREATE TABLE documents (number INTEGER PRIMARY KEY, id TEXT, title TEXT, characters INTEGER)"
        )
        connection.execute("PRAGMA user_version = 1")
    with pytest.raises(ValueError, match=r"has layout 1, which has no passages \(now 3\); add the documents to a new"):
        KnowledgeStore(tmp_path)
    with sqlite3.connect(tmp_path / "catalogue.sqlite") as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (1,), "the file is unchanged"


def test_vectors_are_read_once_and_again_after_a_change_by_another_process(
    model: DiekaeModel, store: KnowledgeStore
) -> None:
    castle, tower = store.add(["the castle is red", "the tower is blue"]).ids
    first = store.catalogue.passages.vectors()
    assert store.catalogue.passages.vectors(first) is first, "nothing has changed"
    assert {passage.id for passage in store.search("red", 9)} == {castle, tower}

    def elsewhere(change: str) -> None:
        child = os.fork()
        if child == 0:
            try:
                theirs = KnowledgeStore(store.folder, model, embedder=embedder(8))
                theirs.add(change) if " " in change else theirs.remove(change)
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    elsewhere("a river has seven dogs")
    second = store.catalogue.passages.vectors(first)
    assert second is not first and len(second.numbers) == 3
    river = document_id("a river has seven dogs")
    assert store.search("dogs in a river", 1)[0].id == river
    elsewhere(castle)  # as many passages as at first, but different ones
    third = store.catalogue.passages.vectors(second)
    assert len(third.numbers) == len(first.numbers) and third.state != first.state
    assert {passage.id for passage in store.search("red", 9)} == {tower, river}
    elsewhere(river)
    assert [passage.id for passage in store.search("red", 9)] == [tower]


def test_the_state_of_the_passages_is_different_after_every_change(tmp_path: Path) -> None:
    """The count and the largest number identify the set of passages, because a number is never reused."""
    draw, seen = random.Random(0), dict[tuple[int, int], list[int]]()
    catalogue = Catalogue(tmp_path / "catalogue.sqlite")
    for _ in range(300):
        with catalogue.writing() as connection:
            numbers = [row[0] for row in connection.execute("SELECT number FROM passages")]
            if numbers and draw.random() < 0.5:
                chosen = draw.choice([draw.choice(numbers), max(numbers)])
                connection.execute("DELETE FROM passages WHERE number = ?", (chosen,))
            else:
                connection.execute(insert("passages"), (1, 0, 1, "", b"ab"))
        vectors = catalogue.passages.vectors()
        assert seen.setdefault(vectors.state, vectors.numbers) == vectors.numbers


def test_an_embedder_of_other_dimensions_is_refused_and_nothing_is_written(
    model: DiekaeModel, store: KnowledgeStore
) -> None:
    (castle,) = store.add("the castle is red").ids
    other = KnowledgeStore(store.folder, model, embedder=embedder(5))
    message = (
        r"the embedder gives 5 dimensions, but passages of .* have 8; open the store with the embedder it was filled"
    )
    for _ in range(2):
        with pytest.raises(ValueError, match=message):
            other.search("castle")
        with pytest.raises(ValueError, match=message):
            other.add("the tower is blue")
    check_index(store)
    assert [passage.id for passage in store.search("tower", 9)] == [castle], "the store is unchanged"
    assert other.add("the castle is red").ids == [castle], "a document in the store needs no embedder"
    store.remove(castle)
    assert len(other.add("the tower is blue").ids) == 1, "an empty store accepts any embedder"


def test_a_document_removed_while_it_is_added_again_is_in_the_store(
    store: KnowledgeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    (document,) = store.add("the castle is red").ids
    documents = store.catalogue.documents
    contains = documents.contains

    def remove_after_looking(id: str) -> bool:
        contained = contains(id)
        monkeypatch.setattr(documents, "contains", contains)
        store.remove(id)
        return contained

    monkeypatch.setattr(documents, "contains", remove_after_looking)
    assert store.add("the castle is red").ids == [document]
    check_index(store)
    assert store.search("castle")[0].id == document


def test_reading_a_passage_of_a_removed_document_raises(store: KnowledgeStore) -> None:
    (document,) = store.add("the castle is red").ids
    passages = store.search("castle")
    store.remove(document)
    with pytest.raises(ValueError, match=rf"document {document[:12]} is no longer in .*; search again"):
        store.read(passages)
    with pytest.raises(ValueError, match="no passage is given"):
        store.read([])


def test_the_text_of_a_passage_is_exact_for_any_characters(store: KnowledgeStore) -> None:
    text = "a\x00b 😀 castle é́ " * 80 + "\x00 tower \x00"
    store.add(text)
    passages = store.search("castle tower", 99)
    assert len(passages) > 1
    for passage in passages:
        assert passage.text == text[passage.start : passage.end] and passage.text.strip()
    assert "tower" in "".join(passage.text for passage in passages)


def test_search_can_be_limited_to_documents(store: KnowledgeStore) -> None:
    ids = store.add([f"the castle number {number} is red " + "and old " * 200 for number in range(4)]).ids
    passages = store.search("castle red", 99, documents=[ids[1], store.documents()[2].title])
    assert {passage.id for passage in passages} == {ids[1], ids[2]}
    in_all = [passage for passage in store.search("castle red", 99) if passage.id in (ids[1], ids[2])]
    assert passages == in_all, "the same passages with the same scores"
    with pytest.raises(ValueError, match="no document 'none'"):
        store.search("castle", documents=["none"])
