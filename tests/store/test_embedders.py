"""Embedders: encoders that Transformers loads, their vectors, and stores that are filled by them."""

import sqlite3
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, PreTrainedTokenizerFast, T5Config, T5Model

from builders import WIDTH, WINDOW, make_encoder, make_model
from diekae import DiekaeModel
from diekae.answering import ask, confidence_of
from diekae.answering.confidence import CALIBRATIONS
from diekae.store import KnowledgeStore
from diekae.store.embedders import BATCH, Embedder, load_encoder, make_embedder
from diekae.store.search import EMBEDDED_AT_ONCE

TEXTS = ["the castle is red", "a river has seven dogs", "the silver ship " * 30, "dogs"]


@pytest.fixture(scope="module")
def model() -> DiekaeModel:
    return make_model("attention")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder(tmp_path_factory.mktemp("encoders") / "tiny-encoder", seed=0)


def test_a_vector_is_the_mean_of_the_last_states_with_length_1(encoder: Path) -> None:
    embedder = load_encoder(str(encoder))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(encoder)
    reference = AutoModel.from_pretrained(encoder).eval()
    vectors = embedder.embed(TEXTS)
    assert vectors.shape == (len(TEXTS), WIDTH) and vectors.dtype == np.float32
    assert len(tokenizer(TEXTS[2]).input_ids) > WINDOW, "this text is longer than the encoder's window"
    for text, vector in zip(TEXTS, vectors, strict=True):
        ids = torch.tensor([tokenizer(text).input_ids[:WINDOW]])
        with torch.no_grad():
            mean = reference(ids).last_hidden_state[0].mean(0).numpy()
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-5)


def test_a_vector_is_independent_of_the_batch(encoder: Path) -> None:
    embedder = load_encoder(str(encoder))
    together = embedder.embed(["", *TEXTS, " \n"] * BATCH)
    for row, text in enumerate(["", *TEXTS, " \n"]):
        np.testing.assert_allclose(together[row :: len(TEXTS) + 2], [embedder.embed([text])[0]] * BATCH, atol=1e-5)
    assert not together[0].any() and not together[-1].any(), "the vector of a blank text is zero"
    assert embedder.embed([]).shape == (0, WIDTH)


def test_names_tell_weights_apart_and_not_folders(encoder: Path, tmp_path: Path) -> None:
    same, other = make_encoder(tmp_path / "same", seed=0), make_encoder(tmp_path / "other", seed=1)
    name, digest = load_encoder(str(encoder)).name.split("@")
    assert name == "tiny-encoder" and load_encoder(str(same)).name == f"same@{digest}"
    assert digest not in load_encoder(str(other)).name
    assert make_embedder(None).name == make_embedder(lambda texts: np.ones((len(texts), 2))).name == ""


def test_a_store_keeps_to_the_encoder_that_filled_it(encoder: Path, tmp_path: Path, model: DiekaeModel) -> None:
    renamed, other = make_encoder(tmp_path / "renamed", seed=0), make_encoder(tmp_path / "other", seed=1)
    folder = tmp_path / "store"
    store = KnowledgeStore(folder, model, embedder=str(encoder))
    ids = store.add(TEXTS).ids
    vectors = store.catalogue.passages.vectors()
    described = [f"{TEXTS[0]}.  {TEXTS[0]}"]
    np.testing.assert_allclose(vectors.matrix[0], store.embedder.embed(described)[0], atol=2e-3)
    assert KnowledgeStore(folder, model, embedder=renamed).search("red")[0].id == store.search("red")[0].id
    for embedder, said in ((other, "other@"), (None, "the static embeddings or a function")):
        wrong = KnowledgeStore(folder, model, embedder=embedder)
        message = rf"have vectors of tiny-encoder@\w+, but the store was opened with {said}"
        for _ in range(2):
            with pytest.raises(ValueError, match=message):
                wrong.search("red")
            with pytest.raises(ValueError, match=message):
                wrong.add("the tower is blue")
    assert [document.id for document in store.documents()] == ids and store.verify() == []
    for id in ids:
        store.remove(id)
    static = KnowledgeStore(folder, model)
    static.add("the tower is blue")
    assert static.search("tower"), "an empty store accepts any embedder"
    with pytest.raises(ValueError, match="have vectors of the static embeddings or a function, but .* tiny-encoder@"):
        store.search("tower")


def test_a_store_that_names_no_embedder_is_one_of_static_embeddings(
    encoder: Path, tmp_path: Path, model: DiekaeModel
) -> None:
    """Stores of older versions do not have the table."""
    KnowledgeStore(tmp_path, model).add("the castle is red")
    with sqlite3.connect(tmp_path / "catalogue.sqlite") as connection:
        connection.execute("DROP TABLE embedder")
    assert KnowledgeStore(tmp_path, model).search("castle")
    with pytest.raises(ValueError, match="have vectors of the static embeddings"):
        KnowledgeStore(tmp_path, model, embedder=encoder).add("the tower is blue")
    assert len(KnowledgeStore(tmp_path, model).add("the tower is blue").ids) == 1


def test_the_document_is_found_by_words_and_likeness_and_the_passage_by_likeness(
    tmp_path: Path, model: DiekaeModel
) -> None:
    """By the formula: 0.3 × share + cosine, plus the best share + cosine in the document."""
    angles = {"alpha": 0.1, "bravo": 1.2, "gamma": 0.4}

    def embed(texts):
        turns = [next((angle for word, angle in angles.items() if f"\n{word}" in text), 0.0) for text in texts]
        return np.array([[np.cos(turn), np.sin(turn)] for turn in turns], np.float32)

    two = "".join(f"# Part\n\n{word} " + "old road " * 70 + "\n\n" for word in ("alpha", "bravo"))
    other = "# Part\n\ngamma " + "old road " * 70
    scores = {}
    for kind in ("static", "encoder"):
        store = KnowledgeStore(tmp_path / kind, model, embedder=Embedder(embed, kind, "by-angle@1"))
        store.add([two, other], prepare=False)
        passages = {
            word: passage for passage in store.search("bravo", 9) for word in angles if f"{word} old" in passage.text
        }
        assert passages.keys() == angles.keys()
        shared = store.catalogue.passages.match_words(["bravo"])
        scores[kind] = {word: passage.score for word, passage in passages.items()}
        assert len(shared) == 1 and {passage.embedder for passage in passages.values()} == {kind}
    share = {"alpha": 0, "bravo": 1, "gamma": 0}
    likeness = {word: np.cos(angle) for word, angle in angles.items()}
    plain = {word: share[word] + likeness[word] for word in angles}
    assert scores["static"] == pytest.approx(plain, abs=2e-3)
    best = {word: plain["gamma"] if word == "gamma" else max(plain["alpha"], plain["bravo"]) for word in angles}
    want = {word: 0.3 * share[word] + likeness[word] + best[word] for word in angles}
    assert scores["encoder"] == pytest.approx(want, abs=2e-3)
    assert want["alpha"] > want["gamma"] < want["bravo"] and plain["alpha"] < plain["bravo"]
    assert want["alpha"] > want["bravo"], "inside the document, likeness decides"


def test_each_kind_of_embedder_has_its_confidence(encoder: Path, tmp_path: Path, model: DiekaeModel) -> None:
    store = KnowledgeStore(tmp_path, model, embedder=encoder)
    store.add(TEXTS)
    question = "where are the dogs"
    answer = ask(model, question, store, max_new_tokens=2)
    passages = store.search(question, 1)
    assert answer.confidence == confidence_of(passages)
    assert answer.answered is (answer.confidence >= CALIBRATIONS["encoder"].threshold)
    assert CALIBRATIONS["encoder"] != CALIBRATIONS["static"]
    assert ask(model, question, store, max_new_tokens=2, threshold=0).answered


def test_a_long_document_reports_its_embedding(tmp_path: Path, model: DiekaeModel) -> None:
    reports = []
    store = KnowledgeStore(tmp_path, model, embedder=lambda texts: np.ones((len(texts), 1), np.float32))
    text = "".join(f"# Part {number}\n\n" + "old road " * 70 + "\n\n" for number in range(EMBEDDED_AT_ONCE + 1))
    store.add(text, prepare=False, progress=lambda *values: reports.append(values))
    count = len(store.catalogue.passages.vectors().numbers)
    embedding = [values for values in reports if values[0].startswith("embedding ")]
    assert count > EMBEDDED_AT_ONCE and [done for _, done, _ in embedding][-1] == count
    assert len(embedding) == -(-count // EMBEDDED_AT_ONCE) and {total for _, _, total in embedding} == {count}


def test_what_is_no_encoder_is_refused(tmp_path: Path, encoder: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot load an embedder from '.*none': expected a folder or the id of a"):
        load_encoder(str(tmp_path / "none"))
    size = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2, "vocab_size": 32}
    T5Model(T5Config(**size)).save_pretrained(tmp_path / "t5")
    PreTrainedTokenizerFast.from_pretrained(encoder).save_pretrained(tmp_path / "t5")
    with pytest.raises(ValueError, match="is no encoder, or its tokenizer has no padding token; expected a folder"):
        load_encoder(str(tmp_path / "t5"))
