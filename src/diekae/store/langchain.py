"""LangChain (extra ``langchain``): the store as one of its retrievers, and its retrievers before the store."""

from __future__ import annotations

from typing import Any

from diekae.memory import Memory
from diekae.store.store import KnowledgeStore

try:
    from langchain_core.documents import Document
    from langchain_core.retrievers import BaseRetriever
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"these adapters need langchain-core ({error}); run `pip install 'diekae[langchain]'`."
    ) from error


class StoreRetriever(BaseRetriever):  # type: ignore[misc]
    """The store's search as a retriever: ``StoreRetriever(store=store, k=3).invoke(question)``."""

    store: Any
    """A :class:`KnowledgeStore`."""
    k: int = 3
    """Most documents that are returned."""

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:  # noqa: ARG002
        """Return the best documents; ``id`` is the store's, metadata hold title and score."""
        return [
            Document(page_content=one.text, id=one.id, metadata={"title": one.title, "score": one.score})
            for one in self.store.search(query, self.k)
        ]


def retrieve_memory(store: KnowledgeStore, retriever: BaseRetriever, question: str) -> Memory | None:
    """Let a LangChain retriever pick the documents, and return what they were prepared to, together.

    A document that the store has not seen is added and prepared, once.

    Args:
        store: Has a model.
        retriever: Any of LangChain's.
        question: What it is asked.

    Returns:
        Fit for ``model.generate(…, knowledge=…)``; None where the retriever finds nothing.
    """
    texts = [document.page_content for document in retriever.invoke(question)]
    return store.memory(*store.add(texts).ids) if texts else None
