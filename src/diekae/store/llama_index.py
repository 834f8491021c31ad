"""LlamaIndex (extra ``llama-index``): the store as one of its retrievers, and its retrievers before the store."""

from __future__ import annotations

from diekae.memory import Memory
from diekae.store.store import KnowledgeStore

try:
    from llama_index.core.retrievers import BaseRetriever
    from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"these adapters need llama-index-core ({error}); run `pip install 'diekae[llama-index]'`."
    ) from error


class StoreRetriever(BaseRetriever):  # type: ignore[misc]
    """The store's search as a retriever: ``StoreRetriever(store, k=3).retrieve(question)``."""

    def __init__(self, store: KnowledgeStore, k: int = 3) -> None:
        """Search this store.

        Args:
            store: Where documents lie.
            k: Most nodes that are returned.
        """
        super().__init__()
        self._store, self._k = store, k

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        """Return the best documents as nodes; their ids are the store's, metadata hold the title."""
        return [
            NodeWithScore(node=TextNode(text=one.text, id_=one.id, metadata={"title": one.title}), score=one.score)
            for one in self._store.search(query_bundle.query_str, self._k)
        ]


def retrieve_memory(store: KnowledgeStore, retriever: BaseRetriever, question: str) -> Memory | None:
    """Let a LlamaIndex retriever pick the documents, and return what they were prepared to, together.

    A document that the store has not seen is added and prepared, once.

    Args:
        store: Has a model.
        retriever: Any of LlamaIndex's.
        question: What it is asked.

    Returns:
        Fit for ``model.generate(…, knowledge=…)``; None where the retriever finds nothing.
    """
    texts = [found.node.get_content() for found in retriever.retrieve(question)]
    return store.memory(*store.add(texts).ids) if texts else None
