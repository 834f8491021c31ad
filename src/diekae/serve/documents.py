"""``/v1/files`` and ``/v1/vector_stores``: OpenAI's shapes over the knowledge store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import Annotated, Any

from fastapi import APIRouter, Form, HTTPException, Request, Response, UploadFile

from diekae.readers import READERS
from diekae.serve.access import Tenant
from diekae.serve.engine import Busy
from diekae.serve.intake import Intake
from diekae.serve.library import Library, StoredFile, VectorStore
from diekae.serve.schema import VectorStoreFileRequest, VectorStoreRequest, VectorStoreSearch
from diekae.serve.state import Asker, State, state_of
from diekae.store import FoundPassage, KnowledgeStore

router = APIRouter(prefix="/v1")
LONGEST_NAME = 255


@router.post("/files")
def upload(
    request: Request, file: UploadFile, tenant: Asker, purpose: Annotated[str, Form()] = "assistants"
) -> dict[str, Any]:
    """Keep a file; it is read and prepared in the background, and ``status`` says when it is done."""
    state, library, _ = _stored(request)
    name = _name(file.filename or "")
    suffix = PurePath(name).suffix.lower()
    if suffix and suffix not in READERS:
        raise HTTPException(400, f"files of kind {suffix!r} cannot be read; send one of {', '.join(sorted(READERS))}")
    assert state.intake is not None
    if state.intake.waiting >= state.options.most_waiting_files:
        raise Busy(f"{state.intake.waiting} files wait already, of at most {state.options.most_waiting_files}")
    content = file.file.read(state.options.most_file + 1)
    if len(content) > state.options.most_file:
        raise HTTPException(413, f"the file has more than {state.options.most_file} bytes")
    if not content.strip():
        raise HTTPException(400, "the file is empty")
    stored = library.add(tenant, name, suffix or ".txt", _printable(purpose)[:64], content)
    state.intake.put(stored)
    return _file_json(stored, state.intake)


@router.get("/files")
def files(request: Request, tenant: Asker) -> dict[str, Any]:
    """List the files of whoever asks."""
    state, library, _ = _stored(request)
    return _list([_file_json(file, state.intake) for file in library.files(tenant)])


@router.get("/files/{id}")
def file(id: str, request: Request, tenant: Asker) -> dict[str, Any]:
    """Describe a file."""
    state, library, _ = _stored(request)
    return _file_json(_file(library, tenant, id), state.intake)


@router.get("/files/{id}/content")
def content(id: str, request: Request, tenant: Asker) -> Response:
    """Return a file's bytes."""
    library = _stored(request)[1]
    file = _file(library, tenant, id)
    try:
        data = library.path(file).read_bytes()
    except FileNotFoundError as error:  # deleted a moment ago
        raise HTTPException(404, f"no file {id!r}") from error
    headers = {"Content-Disposition": "attachment", "X-Content-Type-Options": "nosniff"}
    return Response(data, media_type="application/octet-stream", headers=headers)


@router.delete("/files/{id}")
def delete_file(id: str, request: Request, tenant: Asker) -> dict[str, Any]:
    """Delete a file, and its document unless another file is the same."""
    state, library, _ = _stored(request)
    assert state.intake is not None
    state.intake.delete(_file(library, tenant, id))
    return {"id": id, "object": "file", "deleted": True}


@router.post("/vector_stores")
def create_store(body: VectorStoreRequest, request: Request, tenant: Asker) -> dict[str, Any]:
    """Make a set of files."""
    _, library, _ = _stored(request)
    members = [_file(library, tenant, id) for id in body.file_ids]
    return _store_json(library, library.create_store(tenant, body.name or "", members))


@router.get("/vector_stores")
def stores(request: Request, tenant: Asker) -> dict[str, Any]:
    """List the sets of whoever asks."""
    library = _stored(request)[1]
    return _list([_store_json(library, store) for store in library.stores(tenant)])


@router.get("/vector_stores/{id}")
def store(id: str, request: Request, tenant: Asker) -> dict[str, Any]:
    """Describe a set."""
    library = _stored(request)[1]
    return _store_json(library, _store(library, tenant, id))


@router.delete("/vector_stores/{id}")
def delete_store(id: str, request: Request, tenant: Asker) -> dict[str, Any]:
    """Forget a set; its files stay."""
    library = _stored(request)[1]
    library.delete_store(_store(library, tenant, id))
    return {"id": id, "object": "vector_store.deleted", "deleted": True}


@router.post("/vector_stores/{id}/files")
def join_store(id: str, body: VectorStoreFileRequest, request: Request, tenant: Asker) -> dict[str, Any]:
    """Put a file into a set."""
    library = _stored(request)[1]
    store, file = _store(library, tenant, id), _file(library, tenant, body.file_id)
    library.join(store, file)
    return _member_json(store, file)


@router.get("/vector_stores/{id}/files")
def members(id: str, request: Request, tenant: Asker) -> dict[str, Any]:
    """List the files of a set."""
    library = _stored(request)[1]
    store = _store(library, tenant, id)
    return _list([_member_json(store, file) for file in library.members(store)])


@router.get("/vector_stores/{id}/files/{file_id}")
def member(id: str, file_id: str, request: Request, tenant: Asker) -> dict[str, Any]:
    """Describe a file of a set."""
    library = _stored(request)[1]
    store = _store(library, tenant, id)
    return _member_json(store, _member(library, store, file_id))


@router.delete("/vector_stores/{id}/files/{file_id}")
def leave_store(id: str, file_id: str, request: Request, tenant: Asker) -> dict[str, Any]:
    """Take a file out of a set; it stays a file."""
    library = _stored(request)[1]
    store = _store(library, tenant, id)
    library.leave(store, _member(library, store, file_id))
    return {"id": file_id, "object": "vector_store.file.deleted", "deleted": True}


@router.post("/vector_stores/{id}/search")
def search(id: str, body: VectorStoreSearch, request: Request, tenant: Asker) -> dict[str, Any]:
    """Return the passages of a set that answer a question best."""
    _, library, knowledge = _stored(request)
    query = body.query if isinstance(body.query, str) else " ".join(body.query)
    members = library.members(_store(library, tenant, id))
    by_document = {file.document: file for file in members if file.document}
    passages = _search(knowledge, query, body.max_num_results, by_document)
    data = [
        {
            "file_id": by_document[passage.id].id,
            "filename": by_document[passage.id].name,
            "score": round(max(0.0, min(1.0, passage.score)), 4),
            "attributes": {"heading": passage.heading},
            "content": [{"type": "text", "text": passage.text}],
        }
        for passage in passages
    ]
    page = {"search_query": [query], "data": data, "has_more": False, "next_page": None}
    return {"object": "vector_store.search_results.page", **page}


def _stored(request: Request) -> tuple[State, Library, KnowledgeStore]:
    state = state_of(request)
    if state.library is None or state.store is None:
        raise HTTPException(404, "this server has no documents; start it with --store FOLDER")
    return state, state.library, state.store


def _file(library: Library, tenant: Tenant, id: str) -> StoredFile:
    file = library.file(tenant, id)
    if file is None:
        raise HTTPException(404, f"no file {id!r}")
    return file


def _store(library: Library, tenant: Tenant, id: str) -> VectorStore:
    store = library.store(tenant, id)
    if store is None:
        raise HTTPException(404, f"no vector store {id!r}")
    return store


def _member(library: Library, store: VectorStore, id: str) -> StoredFile:
    member = next((file for file in library.members(store) if file.id == id), None)
    if member is None:
        raise HTTPException(404, f"no file {id!r} in vector store {store.id!r}")
    return member


def _search(store: KnowledgeStore, query: str, k: int, documents: Iterable[str]) -> list[FoundPassage]:
    """Search some documents; those that were deleted meanwhile are left out."""
    named = list(documents)
    while existing := [entry.id for entry in store.catalogue.documents.select(ids=named)]:
        try:
            return store.search(query, k, documents=existing)
        except ValueError:
            if existing == [entry.id for entry in store.catalogue.documents.select(ids=named)]:
                raise
    return []


def _name(given: str) -> str:
    """Return the name of a file without folders; it is shown, and never part of a path on this machine."""
    name = PurePath(_printable(given).replace("\\", "/")).name.strip()
    stem, suffix = PurePath(name).stem, PurePath(name).suffix
    return f"{stem[: LONGEST_NAME - len(suffix)]}{suffix}"[:LONGEST_NAME] or "file.txt"


def _printable(text: str) -> str:
    return "".join(character for character in text if character.isprintable())


def _file_json(file: StoredFile, intake: Intake | None) -> dict[str, Any]:
    statuses = {"in_progress": "uploaded", "completed": "processed", "failed": "error"}
    before = intake.before(file) if intake is not None and file.status == "in_progress" else None
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
        "files_before": before,
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
