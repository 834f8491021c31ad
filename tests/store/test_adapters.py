"""LangChain's and LlamaIndex's retrievers; skipped if they are not installed."""

from pathlib import Path
from typing import Any

import pytest
import torch

from builders import make_model
from diekae import PreparedKnowledge
from diekae.store import KnowledgeStore
from diekae.store.retrieved import passage_id, passage_metadata, read_retrieved

CASTLE = "the castle was built by king four in the north and two towers are red"
RIVER = "a river has seven dogs"
LONG = "\n\n".join(
    [
        "# Island",
        "it is an island in the sea",
        "## Ship",
        "the silver ship opened in the year nine " * 12,
        "## Gate",
        "the gold gate is of old stone " * 12,
    ]
)
KEYS = {"document", "title", "heading", "start", "end", "score", "coverage", "likeness", "searched"}


@pytest.fixture
def store(tmp_path: Path) -> KnowledgeStore:
    store = KnowledgeStore(tmp_path / "store", make_model("attention"))
    store.add([CASTLE, RIVER, LONG])
    return store


def check_passage(store: KnowledgeStore, text: str, name: str, metadata: dict[str, Any]) -> None:
    """Check that a retrieved passage has the metadata that locate it in its document."""
    assert metadata.keys() == KEYS
    entry = next(entry for entry in store.documents() if entry.id == metadata["document"])
    assert store.text(entry.id)[metadata["start"] : metadata["end"]] == text
    assert metadata["title"] == entry.title and metadata["heading"] == "Island > Gate"
    assert name.startswith(entry.id) and name != entry.id


def same(found: list[PreparedKnowledge] | None, *others: PreparedKnowledge) -> bool:
    assert found is not None
    return all(
        prepared.tensors[name].shape == tensor.shape and torch.allclose(prepared.tensors[name], tensor, atol=1e-5)
        for prepared, other in zip(found, others, strict=True)
        for name, tensor in other.tensors.items()
    )


def test_passages_of_the_store_are_read_and_other_texts_are_added(store: KnowledgeStore) -> None:
    passages = store.search("of which stone is the gold gate?", 1)
    retrieved = [(passage.text, passage_metadata(passage)) for passage in passages]
    assert len({passage_id(passage) for passage in store.search("the", 9)}) == len(store.search("the", 9)) > 3
    assert same(read_retrieved(store, retrieved), store.read(passages)) and len(store.documents()) == 3
    assert len(store.read(passages)) < len(store.prepared(passages[0].id))
    mixed = read_retrieved(store, [*retrieved, (RIVER, {}), (CASTLE, {"document": "theirs", "page": 3})])
    assert len(store.documents()) == 3, "texts in the store are not added again"
    assert same(mixed, store.read(passages), *map(store.prepared, store.add([RIVER, CASTLE]).ids))
    cut = read_retrieved(store, [(passages[0].text[:40], passage_metadata(passages[0]))])
    assert cut is not None and len(store.documents()) == 4, "a piece of a passage is added as a text"
    assert read_retrieved(store, []) is None


def test_what_a_retriever_finds_is_limited(store: KnowledgeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = store.add([RIVER, CASTLE]).ids
    most = max(store.prepared(id).nbytes for id in ids)
    monkeypatch.setattr(store._prepared_folder, "_most_bytes", most)
    with pytest.raises(ValueError, match=f"more than most_bytes={most:,}"):
        read_retrieved(store, [(RIVER, {}), (CASTLE, {})])
    with pytest.raises(ValueError, match=f"more than most_bytes={most:,}"):
        store.prepared(*ids)


def test_langchain_retrieves_from_the_store_and_for_it(store: KnowledgeStore) -> None:
    pytest.importorskip("langchain_core", reason="langchain-core is not installed (extra `langchain`)")
    from langchain_core.documents import Document
    from langchain_core.retrievers import BaseRetriever

    from diekae.store.langchain import LangChainStoreRetriever, retrieve_prepared

    retriever = LangChainStoreRetriever(store=store, k=1)
    (result,) = retriever.invoke("of which stone is the gold gate?")
    check_passage(store, result.page_content, result.id, result.metadata)
    prepared = retrieve_prepared(store, retriever, "of which stone is the gold gate?")
    assert same(prepared, store.read(store.search("of which stone is the gold gate?", 1)))
    assert len(store.documents()) == 3, "a passage is not added as a document"

    class Fixed(BaseRetriever):
        texts: list[str]

        def _get_relevant_documents(self, query, *, run_manager):
            return [Document(page_content=text) for text in self.texts]

    prepared = retrieve_prepared(store, Fixed(texts=[RIVER, "the silver ship"]), "what")
    assert len(store.documents()) == 4, "a new text is added"
    assert same(prepared, *map(store.model.prepare, (RIVER, "the silver ship")))
    assert retrieve_prepared(store, Fixed(texts=[]), "what") is None


def test_llama_index_retrieves_from_the_store_and_for_it(store: KnowledgeStore, tmp_path: Path) -> None:
    pytest.importorskip("llama_index.core", reason="llama-index-core is not installed (extra `llama-index`)")
    from llama_index.core.retrievers import BaseRetriever
    from llama_index.core.schema import NodeWithScore, TextNode

    from diekae.store.llama_index import LlamaIndexStoreRetriever, retrieve_prepared

    retriever = LlamaIndexStoreRetriever(store, k=1)
    (result,) = retriever.retrieve("of which stone is the gold gate?")
    check_passage(store, result.node.get_content(), result.node.node_id, result.node.metadata)
    assert result.score == result.node.metadata["score"] > 0
    assert result.node.ref_doc_id == result.node.metadata["document"]
    assert (result.node.start_char_idx, result.node.end_char_idx) == (
        result.node.metadata["start"],
        result.node.metadata["end"],
    )
    prepared = retrieve_prepared(store, retriever, "of which stone is the gold gate?")
    assert same(prepared, store.read(store.search("of which stone is the gold gate?", 1)))
    assert len(store.documents()) == 3, "a passage is not added as a document"
    assert retrieve_prepared(KnowledgeStore(tmp_path / "empty", store.model), retriever, "what") is not None
    empty = KnowledgeStore(tmp_path / "none", store.model)
    assert retrieve_prepared(empty, LlamaIndexStoreRetriever(empty), "elephants") is None

    class Fixed(BaseRetriever):
        def _retrieve(self, query_bundle):
            return [NodeWithScore(node=TextNode(text="the silver ship", metadata={"page": 1}))]

    assert same(retrieve_prepared(store, Fixed(), "what"), store.model.prepare("the silver ship"))
