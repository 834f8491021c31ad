"""LlamaIndex (extra ``llama-index``): a retriever over the store, and reading of what any of its retrievers finds."""

from diekae.knowledge import PreparedKnowledge
from diekae.store.retrieved import passage_id, passage_metadata, read_retrieved
from diekae.store.search import FoundPassage
from diekae.store.store import KnowledgeStore

try:
    from llama_index.core.retrievers import BaseRetriever
    from llama_index.core.schema import NodeRelationship, NodeWithScore, QueryBundle, RelatedNodeInfo, TextNode
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"these adapters need llama-index-core ({error}); run `pip install 'diekae[llama-index]'`."
    ) from error


class LlamaIndexStoreRetriever(BaseRetriever):  # type: ignore[misc]
    """The store's search as a retriever.

    Example:
        LlamaIndexStoreRetriever(store, k=3).retrieve("How long is the guarantee?")
    """

    def __init__(self, store: KnowledgeStore, k: int = 3) -> None:
        """Search this store; return at most k nodes."""
        super().__init__()
        self._store, self._k = store, k

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        """Return the best passages as nodes, best first.

        Each has its own id. Its metadata are ``document`` (the id of its document in the store, also the node's
        ``ref_doc_id``) and the fields of :class:`FoundPassage`.
        """
        passages = self._store.search(query_bundle.query_str, self._k)
        return [NodeWithScore(node=_node(passage), score=passage.score) for passage in passages]


def _node(passage: FoundPassage) -> TextNode:
    metadata = passage_metadata(passage)
    not_for_models = [name for name in metadata if name not in ("title", "heading")]  # numbers and ids
    return TextNode(
        text=passage.text,
        id_=passage_id(passage),
        start_char_idx=passage.start,
        end_char_idx=passage.end,
        metadata=metadata,
        excluded_llm_metadata_keys=not_for_models,
        excluded_embed_metadata_keys=not_for_models,
        relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=passage.id)},
    )


def retrieve_prepared(store: KnowledgeStore, retriever: BaseRetriever, question: str) -> list[PreparedKnowledge] | None:
    """Return the prepared knowledge of what any retriever of LlamaIndex finds, by document; None if it finds nothing.

    Passages of the store, as :class:`LlamaIndexStoreRetriever` finds them, are read from their documents. Any other
    text is added to the store as a document, and prepared once.
    """
    nodes = [scored.node for scored in retriever.retrieve(question)]
    return read_retrieved(store, ((node.get_content(), node.metadata) for node in nodes))
