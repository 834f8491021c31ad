"""Search: which passages a question finds, and in which order."""

import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from builders import make_model
from diekae import DiekaeModel
from diekae.store import KnowledgeStore
from diekae.store.catalogue import Catalogue, DocumentSource, IndexedPassage, document_id
from diekae.store.catalogue.passages import PassageVectors
from diekae.store.embedders import make_embedder
from diekae.store.search import PassageSearch

CASTLE = "the castle was built by king four in the north and two towers are red"
RIVER = "a river has seven dogs"
SHIP = "the silver ship opened in the year nine"


@pytest.fixture(scope="module")
def model() -> DiekaeModel:
    return make_model("attention")


@pytest.fixture
def store(model: DiekaeModel, tmp_path: Path) -> KnowledgeStore:
    return KnowledgeStore(tmp_path / "store", model)


def test_a_question_finds_the_document_that_answers_it(store: KnowledgeStore) -> None:
    castle, river, ship = store.add([CASTLE, RIVER, SHIP]).ids
    assert [passage.id for passage in store.search("who built the castle?", 1)] == [castle]
    assert store.search("DOGS & rivers")[0].id == river, "case and endings are ignored"
    assert store.search('"ship" OR NEAR(', 1)[0].id == ship, "a question is not SQLite's query syntax"
    for question in ("elephants", "?!", " "):
        assert len(store.search(question)) == 3, "something is always found if the store is not empty"
    scores = [passage.score for passage in store.search("the silver castle in the north")]
    assert scores == sorted(scores, reverse=True) and len(scores) >= 2
    with pytest.raises(ValueError, match="k=0"):
        store.search("castle", 0)


def test_search_works_in_a_store_of_two_documents(store: KnowledgeStore) -> None:
    castle, river = store.add([CASTLE, RIVER]).ids
    assert store.search("where are the dogs in the north of the two", 1)[0].id == castle
    assert store.search("where are the dogs", 1)[0].id == river, "stop words are ignored"
    assert store.search("where are the")[0].id == castle, "unless there are no other words"


def test_search_in_an_empty_store_finds_nothing(store: KnowledgeStore) -> None:
    assert store.search("who built the castle?") == []
    store.remove(store.add(CASTLE).ids[0])
    assert store.search("who built the castle?") == []


def test_words_are_ranked_by_bm25(store: KnowledgeStore) -> None:
    """Scores by the formula (Robertson et al., 1994), with SQLite's k1 1.2 and b 0.75 and Lucene's weights."""
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
    assert {number: match.score for number, match in shared.items()} == pytest.approx(
        {1: score(0, 1, 2), 2: score(1, 2, 2) + score(1, 1, 1)}, rel=1e-4
    )
    assert store.catalogue.passages.match_words(["red"])[1].score == pytest.approx(score(0, 1, 2), rel=1e-4)


def test_passages_are_ranked_by_words_and_likeness_together(model: DiekaeModel, tmp_path: Path) -> None:
    texts = ["red bridge", "red red house by the sea", "blue road", "cold wind", "old stone"]
    angles = {"red": 0.0, "red bridge": 0.3, "red red house by the sea": 2.0, "blue road": 1.5}

    def embed(batch: Sequence[str]) -> np.ndarray:
        turns = [angles.get(text.split(".")[0].strip(), 3.0) for text in batch]
        return np.array([[math.cos(turn), math.sin(turn)] for turn in turns], np.float32)

    store = KnowledgeStore(tmp_path / "store", model, embedder=embed)
    ids = store.add(texts).ids
    shared = store.catalogue.passages.match_words(["red"])
    best = max(match.score for match in shared.values())
    share = {text: shared[number].score / best if number in shared else 0.0 for number, text in enumerate(texts, 1)}
    likeness = {text: math.cos(angles.get(text, 3.0)) for text in texts}
    assert sorted(share.values())[:3] == [0, 0, 0] and max(share.values()) == 1 and 0.5 < sorted(share.values())[3] < 1
    passages = store.search("red", 5)
    order = sorted(texts, key=lambda text: -share[text] - likeness[text])
    assert [passage.id for passage in passages] == [ids[texts.index(text)] for text in order]
    for passage in passages:
        assert passage.likeness == pytest.approx(likeness[passage.text], abs=2e-3), "vectors are stored in fp16"
        assert passage.score == pytest.approx(share[passage.text] + passage.likeness, rel=1e-4)
        assert passage.searched == 5


def test_no_thread_waits_busily_after_a_search(tmp_path: Path) -> None:
    """Such threads would take the cores from the decoder, which reads the question next."""
    search = PassageSearch(Catalogue(tmp_path / "catalogue.sqlite"), None, make_embedder(None))
    generator = np.random.default_rng(0)
    matrix = generator.random((6000, 256), dtype=np.float32)
    vectors = PassageVectors((0, 0), list(range(6000)), list(range(6000)), matrix)
    for _ in range(3):
        likeness = search._likeness(matrix[7], vectors)
    assert likeness.argmax() == (matrix @ matrix[7]).argmax()
    time.sleep(0.3)  # numpy's threads, which the line above started, have gone to sleep
    search._likeness(matrix[7], vectors)
    began = time.process_time()
    time.sleep(0.05)
    assert time.process_time() - began < 0.02
