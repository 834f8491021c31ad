"""LangChain's and LlamaIndex's retrievers; skipped where they are not installed."""

from pathlib import Path

import pytest
import torch
from builders import make_model

from diekae.store import KnowledgeStore

CASTLE = "the castle was built by king four in the north and two towers are red"
RIVER = "a river has seven dogs"


@pytest.fixture
def store(tmp_path: Path) -> KnowledgeStore:
    store = KnowledgeStore(tmp_path / "store", make_model("reader"))
    store.add([CASTLE, RIVER])
    return store


def test_langchain_asks_the_store_and_picks_for_it(store: KnowledgeStore) -> None:
    pytest.importorskip("langchain_core", reason="langchain-core is not installed (extra `langchain`)")
    from langchain_core.documents import Document
    from langchain_core.retrievers import BaseRetriever

    from diekae.store.langchain import StoreRetriever, retrieve_memory

    retriever = StoreRetriever(store=store, k=1)
    (found,) = retriever.invoke("who built the castle?")
    assert (found.page_content, found.id) == (CASTLE, store.documents()[0].id) and found.metadata["score"] > 0

    class Fixed(BaseRetriever):
        texts: list[str]

        def _get_relevant_documents(self, query, *, run_manager):
            return [Document(page_content=text) for text in self.texts]

    memory = retrieve_memory(store, Fixed(texts=[RIVER, "the silver ship"]), "what")
    assert memory is not None and len(store.documents()) == 3, "what the store had not seen is added"
    want = store.model.prepare([RIVER, "the silver ship"])
    torch.testing.assert_close(memory.tensors["keys"], want.tensors["keys"], atol=1e-5, rtol=1e-5)
    assert retrieve_memory(store, Fixed(texts=[]), "what") is None


def test_llama_index_asks_the_store_and_picks_for_it(store: KnowledgeStore) -> None:
    pytest.importorskip("llama_index.core", reason="llama-index-core is not installed (extra `llama-index`)")
    from diekae.store.llama_index import StoreRetriever, retrieve_memory

    retriever = StoreRetriever(store, k=1)
    (found,) = retriever.retrieve("who built the castle?")
    assert (found.node.get_content(), found.node.node_id) == (CASTLE, store.documents()[0].id) and found.score > 0
    memory = retrieve_memory(store, retriever, "where are the dogs")
    assert memory is not None
    want = store.model.prepare(RIVER)
    torch.testing.assert_close(memory.tensors["keys"], want.tensors["keys"], atol=1e-5, rtol=1e-5)
    assert retrieve_memory(store, retriever, "elephants") is None
