"""From a request's ``knowledge`` to what the decoder reads, and what the answer says of it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from diekae.answering.answer import PASSAGES, pick, searched
from diekae.answering.confidence import confidence_of
from diekae.knowledge import PreparedKnowledge
from diekae.model import DiekaeModel
from diekae.prepare import read_documents
from diekae.serve.access import Tenant
from diekae.serve.library import Library
from diekae.serve.schema import KnowledgeRequest
from diekae.store import Found, KnowledgeStore

KEPT_BYTES = 256_000_000
"""Prepared knowledge of texts in requests, and of documents behind other system prompts, that is kept for later."""


class UnknownDocument(ValueError):
    """A request names a document that is not there, or not the tenant's."""


@dataclass(frozen=True)
class Reading:
    """What one request reads."""

    prepared: PreparedKnowledge | None
    """K; None where a search led to nothing."""
    passages: tuple[Found, ...] = ()
    """What a search led to."""
    documents: tuple[tuple[str, str], ...] = ()
    """Ids and titles of whole documents that are read."""
    confidence: float | None = None
    """Probability that the documents answer, where they were searched."""

    def as_json(self, shares: Sequence[float | None] = ()) -> dict[str, Any]:
        """Return the field beside ``choices``."""
        sources: list[dict[str, Any]] = [{"id": id, "title": title} for id, title in self.documents]
        for number, passage in enumerate(self.passages):
            source: dict[str, Any] = {
                "id": passage.id,
                "title": passage.title,
                "heading": passage.heading,
                "text": passage.text,
            }
            source |= {"start": passage.start, "end": passage.end, "score": round(passage.score, 4)}
            if number < len(shares):
                source["share"] = shares[number]
            sources.append(source)
        return {"sources": sources, "confidence": self.confidence, "tokens": len(self.prepared or ())}


class Reader:
    """Finds and prepares what requests read."""

    def __init__(self, model: DiekaeModel, store: KnowledgeStore | None, library: Library | None) -> None:
        """Read from a store, or only texts that requests bring along.

        Args:
            model: Decoder and bank.
            store: Documents; None for none.
            library: Whose documents they are; None where nothing was ever uploaded.
        """
        self.model, self.store, self.library = model, store, library
        self._kept: OrderedDict[tuple[tuple[int, ...], str], PreparedKnowledge] = OrderedDict()
        self._lock = threading.Lock()

    def read(
        self, request: KnowledgeRequest, tenant: Tenant, anchor: tuple[int, ...], question: str, history: Sequence[Any]
    ) -> Reading:
        """Return what a request reads.

        Args:
            request: Its ``knowledge``.
            tenant: Who asks.
            anchor: Tokens that the prompt begins with, behind which K is read.
            question: The last question.
            history: Turns before it.

        Raises:
            UnknownDocument: A document is not there, or not the tenant's.
            ValueError: The server has no documents.
        """
        if request.text is not None:
            return Reading(self._behind(anchor, request.text))
        if self.store is None:
            raise ValueError("this server has no documents; start it with --store FOLDER, or give knowledge.text")
        allowed = self.visible(tenant)
        named = [self._document(name, tenant, allowed) for name in request.documents or ()]
        if request.search is None:
            titles = tuple((id, allowed[id]) for id in named)
            if anchor == self.model.anchor:
                return Reading(self.store.prepared(*named), documents=titles)
            texts = [self._behind(anchor, self.store.text(id)) for id in named]
            return Reading(PreparedKnowledge.join(texts), documents=titles)
        if not allowed:
            return Reading(None, confidence=0.0)
        # All documents may be searched without naming them.
        among = named or ([] if tenant.everything else list(allowed))
        passages = pick(self.store, searched(question, history), request.search.k or PASSAGES, among)
        if not passages:
            return Reading(None, confidence=0.0)
        shown = tuple(replace(passage, title=allowed.get(passage.id, passage.title)) for passage in passages)
        return Reading(self._passages(anchor, passages), shown, confidence=confidence_of(passages))

    def visible(self, tenant: Tenant) -> dict[str, str]:
        """Return the titles of the documents that a tenant may read, by id."""
        names = self.library.names(tenant) if self.library else {}
        if not tenant.everything or self.store is None:
            return names
        return {entry.id: names.get(entry.id, entry.title) for entry in self.store.documents()}

    def _document(self, name: str, tenant: Tenant, allowed: dict[str, str]) -> str:
        """Return the document that a file's id or a document's id names."""
        file = self.library.file(tenant, name) if self.library else None
        id = name if file is None else file.document
        if id not in allowed:
            state = f" (its status is {file.status})" if file is not None else ""
            raise UnknownDocument(f"no document {name!r}{state}; GET /v1/files lists yours")
        assert id is not None
        return id

    def _passages(self, anchor: tuple[int, ...], passages: Sequence[Found]) -> PreparedKnowledge:
        assert self.store is not None
        if anchor == self.model.anchor:
            return self.store.read(passages)
        text = self.store.text(passages[0].id)  # all are of one document
        columns = self.model.need_prompter().columns(text, [(passage.start, passage.end) for passage in passages])
        return self._behind(anchor, text).take(columns)

    def _behind(self, anchor: tuple[int, ...], text: str) -> PreparedKnowledge:
        """Return a text's prepared knowledge behind an anchor, made now or kept from an earlier request."""
        key = anchor, text
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        ids = self.model.need_prompter().knowledge(text)
        own_anchor = self.model.config.anchor == "own"
        prepared = read_documents(self.model.attached, anchor, [ids], own_anchor=own_anchor)[0]
        with self._lock:
            self._kept[key] = prepared
            while len(self._kept) > 1 and sum(kept.nbytes for kept in self._kept.values()) > KEPT_BYTES:
                self._kept.popitem(last=False)
        return prepared
