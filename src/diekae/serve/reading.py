"""From a request's ``knowledge`` to what the decoder reads, and what the answer says about it."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from diekae.answering.answer import pick, search_text
from diekae.answering.confidence import confidence_of
from diekae.knowledge import PreparedKnowledge
from diekae.model import DiekaeModel
from diekae.model.relevance import relevant
from diekae.prepare import read_documents
from diekae.serve.access import Tenant
from diekae.serve.job import Refused
from diekae.serve.library import Library
from diekae.serve.schema import KnowledgeRequest
from diekae.store import FoundPassage, KnowledgeStore

KEPT_BYTES = 256_000_000
"""Prepared knowledge of texts in requests, and of documents after other system prompts, that is kept for later."""
Result = TypeVar("Result")
Key = tuple[str, tuple[int, ...], str]
"""A tenant's name, an anchor and a text. The tenant is part of it, so that the time to prepare a text does not show
what other tenants read."""


class UnknownDocument(Refused):
    """A request names a document that does not exist or belongs to another tenant."""


@dataclass(frozen=True)
class Prompted:
    """A prompt in tokens."""

    anchor: tuple[int, ...]
    """Tokens that K stands after."""
    rest: tuple[int, ...]
    """Tokens of x behind the anchor."""
    asked: tuple[int, ...]
    """The same with no more than the last two questions of a chat: what several documents are chosen by."""
    question: str
    """What documents are searched with."""
    history: Sequence[dict[str, str]] = ()
    """Turns before the question."""


@dataclass(frozen=True)
class Reading:
    """What one request reads."""

    prepared: PreparedKnowledge | None
    """K; None where a search led to nothing, or the prompt is about none of several documents."""
    passages: tuple[FoundPassage, ...] = ()
    """What a search led to."""
    documents: tuple[tuple[str, str], ...] = ()
    """Ids and titles of whole documents that are read."""
    confidence: float | None = None
    """Probability that the documents answer, where they were searched."""

    def as_json(self, shares: Sequence[float | None] = ()) -> dict[str, Any]:
        """Return the field beside ``choices``."""
        sources: list[dict[str, Any]] = [{"id": id, "title": title, "score": None} for id, title in self.documents]
        for number, passage in enumerate(self.passages):
            source: dict[str, Any] = {
                "id": passage.id,
                "title": passage.title,
                "score": round(passage.score, 4),
                "heading": passage.heading,
                "text": passage.text,
                "start": passage.start,
                "end": passage.end,
            }
            if number < len(shares):
                source["share"] = shares[number]
            sources.append(source)
        return {"sources": sources, "confidence": self.confidence, "tokens": len(self.prepared or ())}


class KnowledgeReader:
    """Finds and prepares what requests read."""

    def __init__(
        self,
        model: DiekaeModel,
        store: KnowledgeStore | None,
        library: Library | None,
        most: int = 32_768,
        count: Callable[[int], None] = lambda _tokens: None,
    ) -> None:
        """Read from a store, whose library says who owns which document, or only texts that requests bring along.

        ``most`` is the most tokens that a request may read; ``count`` is told how many tokens were prepared.
        """
        self.model, self.store, self.library, self.most, self.count = model, store, library, most, count
        self._kept: OrderedDict[Key, Future[PreparedKnowledge]] = OrderedDict()
        self._lock = threading.Lock()
        self._running = threading.Lock()

    def read(self, request: KnowledgeRequest, tenant: Tenant, prompt: Prompted) -> Reading:
        """Return what a request reads for its prompt.

        Raises:
            UnknownDocument: A document does not exist or belongs to another tenant.
            Refused: The server has no documents, a text is blank, or there is too much to read.
        """
        if request.text is not None:
            if not request.text.strip():
                raise Refused("knowledge.text is blank; give a text, or leave knowledge out")
            return Reading(self._behind(tenant, prompt.anchor, request.text))
        if self.store is None:
            raise Refused("this server has no documents; start it with --store FOLDER, or give knowledge.text")
        arguments = self.store, request, tenant, prompt
        return while_documents_change(self.store, lambda: self._read(*arguments))

    def _read(self, store: KnowledgeStore, request: KnowledgeRequest, tenant: Tenant, prompt: Prompted) -> Reading:
        named = list(dict.fromkeys(self._document(name, tenant) for name in request.documents or ()))
        if request.search is None:
            return self._read_named(store, named, tenant, prompt)
        # All documents may be searched without naming them.
        among = named or ([] if tenant.everything else list(self.titles(tenant)))
        if not among and not tenant.everything:
            return Reading(None, confidence=0.0)
        query = search_text(prompt.question, prompt.history)
        passages = pick(store, query, request.search.k, among)
        if not passages:
            return Reading(None, confidence=0.0)
        if prompt.anchor == self.model.anchor:
            prepared = store.read(passages)
        else:
            text = store.text(passages[0].id)  # all are of one document
            spans = [(passage.start, passage.end) for passage in passages]
            columns = self.model.need_prompter().columns(text, spans)
            prepared = self.model.excerpt(self._behind(tenant, prompt.anchor, text), columns)
        titles = self.titles(tenant, [passages[0].id])
        shown = tuple(replace(passage, title=titles.get(passage.id, passage.title)) for passage in passages)
        return Reading(prepared, shown, confidence=confidence_of(passages))

    def _read_named(self, store: KnowledgeStore, named: list[str], tenant: Tenant, prompt: Prompted) -> Reading:
        """Return what is read of whole documents: those that the prompt is about."""
        self._check(sum(entry.slots or 0 for entry in store.catalogue.documents.select(store.bank, named)))
        if prompt.anchor == self.model.anchor:
            prepared = store.limited(map(store.prepared, named))
        else:
            prepared = [self._behind(tenant, prompt.anchor, store.text(id)) for id in named]
        self._check(sum(map(len, prepared)))
        titles = self.titles(tenant, named)  # before the decoder runs, which gives others time to delete a document
        if len(titles) < len(named):
            raise ValueError(f"one of the documents {named} has been deleted.")
        with self._running if len(named) > 1 else nullcontext():  # one document needs no run
            chosen = relevant(self.model, prompt.anchor + prompt.asked, prepared)
        documents = tuple((named[number], titles[named[number]]) for number in chosen)
        read = [prepared[number] for number in chosen]
        return Reading(PreparedKnowledge.join(read) if read else None, documents=documents)

    def titles(self, tenant: Tenant, ids: Sequence[str] | None = None) -> dict[str, str]:
        """Return the titles of the documents that a tenant may read, by id; with ``ids`` only of those."""
        if self.store is None:
            return {}
        names = self.library.names(tenant, ids) if self.library else {}
        wanted = ids if tenant.everything else list(names)
        stored = {entry.id: entry.title for entry in self.store.catalogue.documents.select(ids=wanted)}
        return {id: names.get(id, stored[id]) for id in (ids or stored) if id in stored}

    def _document(self, name: str, tenant: Tenant) -> str:
        """Return the document that a file's id or a document's id names."""
        file = self.library.file(tenant, name) if self.library else None
        id = name if file is None else file.document
        if id is None or not self.titles(tenant, [id]):
            state = f" (its status is {file.status})" if file is not None else ""
            raise UnknownDocument(f"no document {name!r}{state}; GET /v1/files lists yours")
        return id

    def _check(self, tokens: int) -> None:
        if tokens > self.most:
            raise Refused(f"the request would read {tokens} tokens of knowledge, of at most {self.most}; name less")

    def _behind(self, tenant: Tenant, anchor: tuple[int, ...], text: str) -> PreparedKnowledge:
        """Return a text's prepared knowledge after an anchor, prepared now or kept from an earlier request.

        Requests that need the same text at once wait for the first of them.
        """
        key = tenant.name, anchor, text
        with self._lock:
            future = self._kept.get(key)
            if first := future is None:
                future = self._kept[key] = Future()
            self._kept.move_to_end(key)
        assert future is not None
        if first:
            try:
                future.set_result(self._prepare(anchor, text))
            except BaseException as error:
                future.set_exception(error)
                with self._lock:
                    self._kept.pop(key, None)
            self._forget()
        return future.result()

    def _prepare(self, anchor: tuple[int, ...], text: str) -> PreparedKnowledge:
        """Run the decoder over a text, one text at a time."""
        ids = self.model.need_prompter().knowledge(text)
        self._check(len(ids))
        with self._running:
            prepared = read_documents(self.model.attached, anchor, [ids])[0]
        self.count(len(prepared))
        return prepared

    def _forget(self) -> None:
        """Drop the oldest of what is kept until the rest fits."""
        with self._lock:
            ready = {key: kept for key, kept in self._kept.items() if kept.done() and not kept.exception()}
            sizes = {key: future.result().nbytes for key, future in ready.items()}
            total = sum(sizes.values())
            for key, size in sizes.items():
                if total > KEPT_BYTES:
                    total -= size
                    del self._kept[key]


def while_documents_change(store: KnowledgeStore, call: Callable[[], Result]) -> Result:
    """Return what a call returns; make it again if it fails because a document was deleted meanwhile."""
    while True:
        state = store.catalogue.documents.state()
        try:
            return call()
        except Refused:
            raise
        except ValueError:
            if store.catalogue.documents.state() == state:
                raise
