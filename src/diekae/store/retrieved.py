"""Reads what retrievers of LangChain and LlamaIndex return: passages of the store, and other texts."""

import dataclasses
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

from diekae.knowledge import PreparedKnowledge
from diekae.store.search import FoundPassage
from diekae.store.store import KnowledgeStore

_STORED_ELSEWHERE = ("id", "text")
"""Fields of a passage that are not in its metadata under the same name."""


def passage_metadata(passage: FoundPassage) -> dict[str, Any]:
    """Return a passage's fields as a framework's metadata: without its text, and its document's id as ``document``."""
    values = dataclasses.asdict(passage)
    del values["text"]
    return {"document": values.pop("id"), **values}


def passage_id(passage: FoundPassage) -> str:
    """Return an id of the passage: frameworks treat two results with the same id as one."""
    return f"{passage.id}:{passage.start}-{passage.end}"


def read_retrieved(
    store: KnowledgeStore, retrieved: Iterable[tuple[str, Mapping[str, Any]]]
) -> list[PreparedKnowledge] | None:
    """Return the prepared knowledge of the texts and metadata that a retriever returned; None if there are none.

    Passages of this store, which has a model, are read from their documents, those of one document together. Any other
    text is added as a document, and prepared once.
    """
    passages, texts = dict[str, list[FoundPassage]](), list[str]()
    for text, metadata in retrieved:
        passage = _stored_passage(store, text, metadata)
        if passage is None:
            texts.append(text)
        else:
            passages.setdefault(passage.id, []).append(passage)
    added = store.add(texts).ids if texts else []
    return store.limited(chain(map(store.read, passages.values()), map(store.prepared, added))) or None


def _stored_passage(store: KnowledgeStore, text: str, metadata: Mapping[str, Any]) -> FoundPassage | None:
    """Return the store's passage; None for any other text, also for a part of a passage with the passage's metadata."""
    names = [field.name for field in dataclasses.fields(FoundPassage) if field.name not in _STORED_ELSEWHERE]
    try:
        passage = FoundPassage(id=metadata["document"], text=text, **{name: metadata[name] for name in names})
    except KeyError:
        return None
    documents = store.catalogue.documents
    with store.catalogue.reading():  # one state: nobody can remove the document between the two
        if not documents.contains(passage.id) or documents.text(passage.id)[passage.start : passage.end] != text:
            return None
    return passage
