"""LlamaIndex (extra ``llama-index``): the store as one of its retrievers, and its retrievers before the store."""

from __future__ import annotations

from diekae.knowledge import PreparedKnowledge
from diekae.store.retrieved import metadata_of, passage_id, read_retrieved
from diekae.store.store import Found, KnowledgeStore

try:
    from llama_index.core.retrievers import BaseRetriever
    from llama_index.core.schema import NodeRelationship, NodeWithScore, QueryBundle, RelatedNodeInfo, TextNode
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
        """Return the best passages as nodes, the best first.

        Each has an id of its own, and as metadata ``document`` (the id of its document in the store, which is also the
        node's ``ref_doc_id``), ``title``, ``heading``, ``start`` and ``end`` (its characters in the document),
        ``score``, ``coverage`` and ``likeness``.
        """
        passages = self._store.search(query_bundle.query_str, self._k)
        return [NodeWithScore(node=_node(passage), score=passage.score) for passage in passages]


def _node(passage: Found) -> TextNode:
    metadata = metadata_of(passage)
    return TextNode(
        text=passage.text,
        id_=passage_id(passage),
        start_char_idx=passage.start,
        end_char_idx=passage.end,
        metadata=metadata,
        # For whoever shows the node to a model: numbers and ids tell it nothing.
        excluded_llm_metadata_keys=[name for name in metadata if name not in ("title", "heading")],
        excluded_embed_metadata_keys=[name for name in metadata if name not in ("title", "heading")],
        relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=passage.id)},
    )


def retrieve_prepared(store: KnowledgeStore, retriever: BaseRetriever, question: str) -> PreparedKnowledge | None:
    """Let a LlamaIndex retriever pick what is to be known, and return what it was prepared to, together.

    Passages of the store itself, as :class:`StoreRetriever` finds them, are read from their documents. A text that the
    store has not seen is added as a document and prepared, once.

    Args:
        store: Has a model.
        retriever: Any of LlamaIndex's.
        question: What it is asked.

    Returns:
        Fit for ``model.generate(…, knowledge=…)``; None where the retriever finds nothing.
    """
    nodes = [scored.node for scored in retriever.retrieve(question)]
    return read_retrieved(store, ((node.get_content(), node.metadata) for node in nodes))
