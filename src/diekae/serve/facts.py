"""``/v1/edits``: facts that the decoder states from now on, for everyone who asks this server."""

from typing import Any

from fastapi import APIRouter, HTTPException, Request

from diekae.edit import Edit
from diekae.edit.edits import Edits
from diekae.edit.store import Record
from diekae.serve.schema import EditRequest
from diekae.serve.state import Asker, Owner, state_of

router = APIRouter(prefix="/v1/edits")


@router.post("")
def add(body: EditRequest, request: Request, _: Owner) -> dict[str, Any]:
    """Edit a fact; it is kept before the answer is sent."""
    edits = _edits(request)
    try:
        with state_of(request).engine.editing:
            (record,) = edits.add([Edit(body.prompt, body.subject, body.target)])
    except ValueError as error:
        raise HTTPException(400, str(error)) from error
    return _json(record)


@router.get("")
def list_all(request: Request, _: Asker, every: bool = False) -> dict[str, Any]:
    """List the edits in force, or with ``every`` all there ever were."""
    records = _edits(request).list(every=every)
    return {"object": "list", "data": [_json(record) for record in records], "has_more": False}


@router.delete("/{id}")
def revert(id: int, request: Request, _: Owner) -> dict[str, Any]:
    """Take an edit back."""
    edits = _edits(request)
    try:
        with state_of(request).engine.editing:
            record = edits.revert(id)
    except (ValueError, OverflowError) as error:
        raise HTTPException(404, f"no edit {id} is in force") from error
    if record is None:  # its record is damaged, and it is reverted all the same
        return {"id": id, "object": "edit", "status": "reverted"}
    return _json(record)


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
