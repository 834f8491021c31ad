"""``/v1/models``, ``/health`` and ``/metrics``."""

from typing import Any

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import JSONResponse

from diekae.serve.state import Asker, Owner, State, state_of

router = APIRouter()


@router.get("/v1/models")
async def models(request: Request, _: Asker) -> dict[str, Any]:
    """List the one model."""
    return {"object": "list", "data": [_model_json(state_of(request))]}


@router.get("/v1/models/{id:path}")
async def model_by_id(id: str, request: Request, _: Asker) -> dict[str, Any]:
    """Describe the model."""
    if id != state_of(request).name:
        raise HTTPException(404, f"no model {id!r}; there is {state_of(request).name!r}")
    return _model_json(state_of(request))


@router.get("/health")
async def health(request: Request) -> JSONResponse:
    """Tell whether answers are being generated."""
    alive = state_of(request).engine.alive
    return JSONResponse({"status": "ok" if alive else "stopped"}, 200 if alive else 503)


@router.get("/metrics")
async def prometheus(request: Request, _: Owner) -> Response:
    """Return counters for Prometheus."""
    return Response(state_of(request).metrics.text(), media_type="text/plain; version=0.0.4")


def _model_json(state: State) -> dict[str, Any]:
    return {"id": state.name, "object": "model", "created": state.created, "owned_by": "diekae"}
