"""What a retriever of another framework found, read from the store: passages of its own, and documents it adds."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from diekae.knowledge import PreparedKnowledge
from diekae.store.store import Found, KnowledgeStore


def metadata_of(passage: Found) -> dict[str, Any]:
    """Return what is said of a passage, as a framework's metadata: all but its text, its document's id as such."""
    values = dataclasses.asdict(passage)
    del values["text"]
    return {"document": values.pop("id"), **values}


def passage_id(passage: Found) -> str:
    """Return an id that a passage shares with no other: frameworks take two of one id for the same."""
    return f"{passage.id}:{passage.start}-{passage.end}"


def read_retrieved(
    store: KnowledgeStore, retrieved: Iterable[tuple[str, Mapping[str, Any]]]
) -> PreparedKnowledge | None:
    """Return the memory of what a retriever found; None where that is nothing.

    Passages of this store are read from their documents; any other text is added as a document, and prepared once.

    Args:
        store: Has a model.
        retrieved: Text and metadata of each, the best first.
    """
    passages, texts = list[Found](), list[str]()
    for text, metadata in retrieved:
        passage = _passage(store, text, metadata)
        if passage is None:
            texts.append(text)
        else:
            passages.append(passage)
    all_prepared = [store.read(passages)] if passages else []
    if texts:
        all_prepared.append(store.prepared(*store.add(texts).ids))
    return PreparedKnowledge.join(all_prepared) if all_prepared else None


def _passage(store: KnowledgeStore, text: str, metadata: Mapping[str, Any]) -> Found | None:
    """Return the store's passage, if it is one: a framework's splitter may have cut it, and kept the metadata."""
    try:
        values = {field.name: metadata[field.name] for field in dataclasses.fields(Found) if field.name not in _RENAMED}
        passage = Found(id=metadata["document"], text=text, **values)
    except KeyError:
        return None
    if not store.catalogue.holds(passage.id):
        return None
    return passage if store.catalogue.text(passage.id)[passage.start : passage.end] == text else None


_RENAMED = ("id", "text")
"""Fields that a framework holds elsewhere than under their name in its metadata."""
