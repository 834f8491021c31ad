"""``/v1/edits``: facts that the decoder states from now on, for everyone who asks this server."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, HTTPException, Request

from diekae.edit import Edit
from diekae.edit.edits import Edits
from diekae.edit.store import Record
from diekae.serve.access import Tenant
from diekae.serve.schema import EditRequest
from diekae.serve.state import owner_of, state_of, tenant_of

router = APIRouter(prefix="/v1/edits")


@router.post("")
def add(body: EditRequest, request: Request, _: Tenant = Depends(owner_of)) -> dict[str, Any]:
    """Edit a fact; it is kept before the answer is sent."""
    edits = _edits(request)
    try:
        (record,) = edits.add([Edit(body.prompt, body.subject, body.target)])
    except ValueError as error:
        raise HTTPException(400, str(error)) from error
    state_of(request).model.editor = edits
    return _json(record)


@router.get("")
def list_all(request: Request, every: bool = False, _: Tenant = Depends(tenant_of)) -> dict[str, Any]:
    """List the edits in force, or with ``every`` all there ever were."""
    return {"object": "list", "data": [_json(record) for record in _edits(request).list(every=every)]}


@router.delete("/{id}")
def revert(id: int, request: Request, _: Tenant = Depends(owner_of)) -> dict[str, Any]:
    """Take an edit back."""
    try:
        return _json(_edits(request).revert(id))
    except (ValueError, OverflowError) as error:
        raise HTTPException(404, str(error)) from error


def _edits(request: Request) -> Edits:
    edits = state_of(request).edits
    if edits is None:
        raise HTTPException(404, "this server has no edits; start it with --edits FOLDER")
    return edits


def _json(record: Record) -> dict[str, Any]:
    edit = record.edit
    return {
        "id": record.id,
        "object": "edit",
        "prompt": edit.prompt,
        "subject": edit.subject,
        "target": edit.target,
        "status": record.state,
    }
