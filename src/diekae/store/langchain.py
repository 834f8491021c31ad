"""LangChain (extra ``langchain``): a retriever over the store, and reading of what any of its retrievers finds."""

from typing import Any

from diekae.knowledge import PreparedKnowledge
from diekae.store.retrieved import passage_id, passage_metadata, read_retrieved
from diekae.store.store import KnowledgeStore

try:
    from langchain_core.documents import Document
    from langchain_core.retrievers import BaseRetriever
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"these adapters need langchain-core ({error}); run `pip install 'diekae[langchain]'`."
    ) from error


class LangChainStoreRetriever(BaseRetriever):  # type: ignore[misc]
    """The store's search as a retriever.

    Example:
        LangChainStoreRetriever(store=store, k=3).invoke("How long is the guarantee?")
    """

    store: Any
    """A :class:`KnowledgeStore`."""
    k: int = 3
    """Most passages to return."""

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:  # noqa: ARG002
        """Return the best passages, best first.

        Each has its own ``id``. Its metadata are ``document`` (the id of its document in the store) and the fields of
        :class:`diekae.store.FoundPassage`.
        """
        return [
            Document(page_content=passage.text, id=passage_id(passage), metadata=passage_metadata(passage))
            for passage in self.store.search(query, self.k)
        ]


def retrieve_prepared(store: KnowledgeStore, retriever: BaseRetriever, question: str) -> list[PreparedKnowledge] | None:
    """Return the prepared knowledge of what any retriever of LangChain finds, by document; None if it finds nothing.

    Passages of the store, as :class:`LangChainStoreRetriever` finds them, are read from their documents. Any other text
    is added to the store as a document, and prepared once.
    """
    return read_retrieved(
        store, ((document.page_content, document.metadata) for document in retriever.invoke(question))
    )
