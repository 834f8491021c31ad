"""``/v1/files`` and ``/v1/vector_stores``: OpenAI's shapes over the knowledge store."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Form, HTTPException, Request, Response, UploadFile

from diekae.readers import READERS
from diekae.serve.access import Tenant
from diekae.serve.engine import Busy
from diekae.serve.intake import Intake
from diekae.serve.library import Library, StoredFile, VectorStore
from diekae.serve.options import ServerOptions
from diekae.serve.reading import while_documents_change
from diekae.serve.schema import VectorStoreFileRequest, VectorStoreRequest, VectorStoreSearch
from diekae.serve.state import Asker, state_of
from diekae.store import FoundPassage, KnowledgeStore

router = APIRouter(prefix="/v1")
Value = TypeVar("Value")
LONGEST_NAME = 255


@dataclass(frozen=True)
class Shelf:
    """The documents of whoever asks; what belongs to others is not found."""

    tenant: Tenant
    intake: Intake
    options: ServerOptions

    @property
    def library(self) -> Library:
        """Return the uploaded files."""
        return self.intake.library

    def file(self, id: str) -> StoredFile:
        """Return a file."""
        return _need(self.library.file(self.tenant, id), f"no file {id!r}")

    def store(self, id: str) -> VectorStore:
        """Return a vector store."""
        return _need(self.library.store(self.tenant, id), f"no vector store {id!r}")

    def member(self, store: VectorStore, id: str) -> StoredFile:
        """Return a file of a vector store."""
        member = next((file for file in self.library.members(store) if file.id == id), None)
        return _need(member, f"no file {id!r} in vector store {store.id!r}")


async def _shelf_of(request: Request, tenant: Asker) -> Shelf:
    state = state_of(request)
    intake = _need(state.intake, "this server has no documents; start it with --store FOLDER")
    return Shelf(tenant, intake, state.options)


def _need(value: Value | None, message: str) -> Value:
    if value is None:
        raise HTTPException(404, message)
    return value


Documents = Annotated[Shelf, Depends(_shelf_of)]
"""Argument of a route that reads or changes documents."""


@router.post("/files")
def upload(shelf: Documents, file: UploadFile, purpose: Annotated[str, Form()] = "assistants") -> dict[str, Any]:
    """Keep a file; it is read and prepared in the background, and ``status`` says when it is done."""
    intake, options = shelf.intake, shelf.options
    name = _name(file.filename or "")
    suffix = PurePath(name).suffix.lower()
    if suffix and suffix not in READERS:
        raise HTTPException(400, f"files of kind {suffix!r} cannot be read; send one of {', '.join(sorted(READERS))}")
    if intake.waiting >= options.most_waiting_files:
        raise Busy(f"{intake.waiting} files wait already, of at most {options.most_waiting_files}")
    content = file.file.read(options.most_file + 1)
    if len(content) > options.most_file:
        raise HTTPException(413, f"the file has more than {options.most_file} bytes")
    if not content.strip():
        raise HTTPException(400, "the file is empty")
    stored = shelf.library.add(shelf.tenant, name, suffix or ".txt", _printable(purpose)[:64], content)
    intake.put(stored)
    return _file_json(stored, intake)


@router.get("/files")
def files(shelf: Documents) -> dict[str, Any]:
    """List the files of whoever asks."""
    return _list([_file_json(file, shelf.intake) for file in shelf.library.files(shelf.tenant)])


@router.get("/files/{id}")
def file(id: str, shelf: Documents) -> dict[str, Any]:
    """Describe a file."""
    return _file_json(shelf.file(id), shelf.intake)


@router.get("/files/{id}/content")
def content(id: str, shelf: Documents) -> Response:
    """Return a file's bytes."""
    try:
        data = shelf.library.path(shelf.file(id)).read_bytes()
    except FileNotFoundError as error:  # deleted a moment ago
        raise HTTPException(404, f"no file {id!r}") from error
    headers = {"Content-Disposition": "attachment", "X-Content-Type-Options": "nosniff"}
    return Response(data, media_type="application/octet-stream", headers=headers)


@router.delete("/files/{id}")
def delete_file(id: str, shelf: Documents) -> dict[str, Any]:
    """Delete a file, and its document unless another file is the same."""
    shelf.intake.delete(shelf.file(id))
    return {"id": id, "object": "file", "deleted": True}


@router.post("/vector_stores")
def create_store(body: VectorStoreRequest, shelf: Documents) -> dict[str, Any]:
    """Make a set of files."""
    members = [shelf.file(id) for id in body.file_ids]
    return _store_json(shelf.library, shelf.library.create_store(shelf.tenant, body.name or "", members))


@router.get("/vector_stores")
def stores(shelf: Documents) -> dict[str, Any]:
    """List the sets of whoever asks."""
    return _list([_store_json(shelf.library, store) for store in shelf.library.stores(shelf.tenant)])


@router.get("/vector_stores/{id}")
def store(id: str, shelf: Documents) -> dict[str, Any]:
    """Describe a set."""
    return _store_json(shelf.library, shelf.store(id))


@router.delete("/vector_stores/{id}")
def delete_store(id: str, shelf: Documents) -> dict[str, Any]:
    """Forget a set; its files stay."""
    shelf.library.delete_store(shelf.store(id))
    return {"id": id, "object": "vector_store.deleted", "deleted": True}


@router.post("/vector_stores/{id}/files")
def join_store(id: str, body: VectorStoreFileRequest, shelf: Documents) -> dict[str, Any]:
    """Put a file into a set."""
    store, file = shelf.store(id), shelf.file(body.file_id)
    shelf.library.join(store, file)
    return _member_json(store, file)


@router.get("/vector_stores/{id}/files")
def members(id: str, shelf: Documents) -> dict[str, Any]:
    """List the files of a set."""
    store = shelf.store(id)
    return _list([_member_json(store, file) for file in shelf.library.members(store)])


@router.get("/vector_stores/{id}/files/{file_id}")
def member(id: str, file_id: str, shelf: Documents) -> dict[str, Any]:
    """Describe a file of a set."""
    store = shelf.store(id)
    return _member_json(store, shelf.member(store, file_id))


@router.delete("/vector_stores/{id}/files/{file_id}")
def leave_store(id: str, file_id: str, shelf: Documents) -> dict[str, Any]:
    """Take a file out of a set; it stays a file."""
    store = shelf.store(id)
    shelf.library.leave(store, shelf.member(store, file_id))
    return {"id": file_id, "object": "vector_store.file.deleted", "deleted": True}


@router.post("/vector_stores/{id}/search")
def search(id: str, body: VectorStoreSearch, shelf: Documents) -> dict[str, Any]:
    """Return the passages of a set that answer a question best."""
    query = body.query if isinstance(body.query, str) else " ".join(body.query)
    by_document = {file.document: file for file in shelf.library.members(shelf.store(id)) if file.document}
    data = [
        {
            "file_id": by_document[passage.id].id,
            "filename": by_document[passage.id].name,
            "score": round(max(0.0, min(1.0, passage.score)), 4),
            "attributes": {"heading": passage.heading},
            "content": [{"type": "text", "text": passage.text}],
        }
        for passage in _search(shelf.intake.store, query, body.max_num_results, list(by_document))
    ]
    page = {"search_query": [query], "data": data, "has_more": False, "next_page": None}
    return {"object": "vector_store.search_results.page", **page}


def _search(store: KnowledgeStore, query: str, k: int, documents: Sequence[str]) -> list[FoundPassage]:
    """Search some documents; those that were deleted meanwhile are left out."""

    def search_existing() -> list[FoundPassage]:
        existing = [entry.id for entry in store.catalogue.documents.select(ids=documents)]
        return store.search(query, k, documents=existing) if existing else []

    return while_documents_change(store, search_existing)


def _name(given: str) -> str:
    """Return the name of a file without folders; it is shown, and never part of a path on this machine."""
    name = PurePath(_printable(given).replace("\\", "/")).name.strip()
    stem, suffix = PurePath(name).stem, PurePath(name).suffix
    return f"{stem[: LONGEST_NAME - len(suffix)]}{suffix}"[:LONGEST_NAME] or "file.txt"


def _printable(text: str) -> str:
    return "".join(character for character in text if character.isprintable())


def _file_json(file: StoredFile, intake: Intake) -> dict[str, Any]:
    statuses = {"in_progress": "uploaded", "completed": "processed", "failed": "error"}
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": file.created,
        "filename": file.name,
        "purpose": file.purpose,
        "status": statuses[file.status],
        "status_details": file.error,
        "document": file.document,
        "files_before": intake.before(file) if file.status == "in_progress" else None,
    }


def _member_json(store: VectorStore, file: StoredFile) -> dict[str, Any]:
    error = None if file.error is None else {"code": "unsupported_file", "message": file.error}
    return {
        "id": file.id,
        "object": "vector_store.file",
        "created_at": file.created,
        "vector_store_id": store.id,
        "status": file.status,
        "last_error": error,
        "usage_bytes": file.bytes,
    }


def _store_json(library: Library, store: VectorStore) -> dict[str, Any]:
    members = library.members(store)
    counts = {name: sum(file.status == name for file in members) for name in ("in_progress", "completed", "failed")}
    return {
        "id": store.id,
        "object": "vector_store",
        "created_at": store.created,
        "name": store.name,
        "usage_bytes": sum(file.bytes for file in members),
        "file_counts": {**counts, "cancelled": 0, "total": len(members)},
        "status": "in_progress" if counts["in_progress"] else "completed",
        "last_active_at": store.created,
        "metadata": {},
    }


def _list(data: Sequence[dict[str, Any]]) -> dict[str, Any]:
    ends = {"first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None}
    return {"object": "list", "data": list(data), "has_more": False, **ends}
