"""LangChain (extra ``langchain``): the store as one of its retrievers, and its retrievers before the store."""

from __future__ import annotations

from typing import Any

from diekae.knowledge import PreparedKnowledge
from diekae.store.retrieved import metadata_of, passage_id, read_retrieved
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
    """Most passages that are returned."""

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:  # noqa: ARG002
        """Return the best passages, the best first.

        Each has an ``id`` of its own, and as metadata ``document`` (the id of its document in the store), ``title``,
        ``heading``, ``start`` and ``end`` (its characters in the document), ``score``, ``coverage`` and ``likeness``.
        """
        return [
            Document(page_content=passage.text, id=passage_id(passage), metadata=metadata_of(passage))
            for passage in self.store.search(query, self.k)
        ]


def retrieve_prepared(store: KnowledgeStore, retriever: BaseRetriever, question: str) -> PreparedKnowledge | None:
    """Let a LangChain retriever pick what is to be known, and return what it was prepared to, together.

    Passages of the store itself, as :class:`StoreRetriever` finds them, are read from their documents. A text that the
    store has not seen is added as a document and prepared, once.

    Args:
        store: Has a model.
        retriever: Any of LangChain's.
        question: What it is asked.

    Returns:
        Fit for ``model.generate(…, knowledge=…)``; None where the retriever finds nothing.
    """
    return read_retrieved(
        store, ((document.page_content, document.metadata) for document in retriever.invoke(question))
    )
