"""The server: routes, errors in OpenAI's shape, and the page."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from diekae.edit.editing import open_edits
from diekae.model import DiekaeModel
from diekae.serve import completions, documents, facts
from diekae.serve.access import Keys
from diekae.serve.engine import Engine, EngineOptions
from diekae.serve.intake import Intake
from diekae.serve.library import Library
from diekae.serve.limits import Limits
from diekae.serve.metrics import Metrics
from diekae.serve.reading import Reader, UnknownDocument
from diekae.serve.state import ServerOptions, State, owner_of, state_of, tenant_of
from diekae.store import KnowledgeStore
from diekae.version import __version__

PAGE = {
    "/": ("page.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
}
POLICY = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
STOP = 30.0
"""Seconds that running answers have when the server stops."""


def create_app(
    model: DiekaeModel,
    *,
    name: str = "diekae",
    store: str | Path | None = None,
    edits: str | Path | None = None,
    keys: Keys | None = None,
    engine_options: EngineOptions | None = None,
    options: ServerOptions | None = None,
) -> FastAPI:
    """Return a server as an ASGI application.

    Args:
        model: Decoder and bank, with a tokenizer that has a chat template.
        name: The model's name for clients.
        store: Folder of a knowledge store; uploads are kept there too. None serves without documents.
        edits: Folder of edits; None serves without.
        keys: Who may ask; everyone if None or empty.
        engine_options: How requests share the decoder.
        options: Limits.
    """
    limits, metrics = options or ServerOptions(), Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        state = _open(model, name, store, edits, keys or Keys([]), engine_options, limits, metrics)
        app.state.diekae = state
        yield
        await run_in_threadpool(_close, state)

    app = FastAPI(title="diekae", version=__version__, lifespan=lifespan, docs_url="/docs", redoc_url=None)
    app.add_middleware(Limits, metrics=metrics, most_body=limits.most_body, most_file=limits.most_file)
    for module in (completions, documents, facts):
        app.include_router(module.router)
    _add_errors(app)
    _add_pages(app)

    @app.get("/v1/models", dependencies=[Depends(tenant_of)])
    def models(request: Request) -> dict[str, Any]:
        """List the one model."""
        return {"object": "list", "data": [_model_json(state_of(request))]}

    @app.get("/v1/models/{id:path}", dependencies=[Depends(tenant_of)])
    def model_by_id(id: str, request: Request) -> dict[str, Any]:
        """Describe the model."""
        if id != state_of(request).name:
            raise HTTPException(404, f"no model {id!r}; there is {state_of(request).name!r}")
        return _model_json(state_of(request))

    @app.get("/health")
    def health(request: Request) -> JSONResponse:
        """Tell whether answers are being generated."""
        alive = state_of(request).engine.alive
        return JSONResponse({"status": "ok" if alive else "stopped"}, 200 if alive else 503)

    @app.get("/metrics", dependencies=[Depends(owner_of)])
    def prometheus(request: Request) -> Response:
        """Return counters for Prometheus."""
        return Response(state_of(request).metrics.text(), media_type="text/plain; version=0.0.4")

    return app


def _open(
    model: DiekaeModel,
    name: str,
    store: str | Path | None,
    edits: str | Path | None,
    keys: Keys,
    engine_options: EngineOptions | None,
    options: ServerOptions,
    metrics: Metrics,
) -> State:
    """Open documents and edits, and start the threads."""
    documents = None if store is None else KnowledgeStore(store, model)
    library = None if documents is None else Library(documents.folder)
    opened = None if edits is None else open_edits(model, edits)
    if opened is not None:
        opened.refresh()
        model.editor = opened
    engine = Engine(model, engine_options)
    intake = None if library is None or documents is None else Intake(library, documents)
    metrics.watch("waiting_answers", "Answers that wait", lambda: engine.waiting)
    metrics.watch("running_answers", "Answers that are generated now", lambda: engine.running)
    if intake is not None:
        metrics.watch("waiting_files", "Uploaded files that are not read yet", lambda: intake.waiting)
    reader = Reader(model, documents, library)
    created = int(time.time())
    return State(model, name, keys, engine, reader, metrics, options, created, documents, library, intake, opened)


def _close(state: State) -> None:
    """Finish what runs, and close files."""
    state.engine.stop(STOP)
    if state.intake is not None:
        state.intake.stop()
    if state.library is not None:
        state.library.close()


def _model_json(state: State) -> dict[str, Any]:
    return {"id": state.name, "object": "model", "created": state.created, "owned_by": "diekae"}


def _add_errors(app: FastAPI) -> None:
    """Say what is wrong in OpenAI's shape."""

    @app.exception_handler(HTTPException)
    async def http_error(_request: Request, error: HTTPException) -> JSONResponse:
        return _error(error.status_code, str(error.detail), error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path"))
        return _error(400, f"{place}: {first['msg']}" if place else str(first["msg"]), param=place or None)

    @app.exception_handler(UnknownDocument)
    async def unknown(_request: Request, error: UnknownDocument) -> JSONResponse:
        return _error(404, str(error))

    @app.exception_handler(ValueError)
    async def wrong(_request: Request, error: ValueError) -> JSONResponse:
        return _error(400, str(error))


def _error(status: int, text: str, headers: Any = None, param: str | None = None) -> JSONResponse:
    kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "invalid_request_error" if status < 500 else "server_error")
    content = {"error": {"message": text, "type": kind, "param": param, "code": None}}
    return JSONResponse(content, status, headers=headers)


def _add_pages(app: FastAPI) -> None:
    """Serve the page: three files of this package, and nothing else."""
    folder = files("diekae.serve") / "page"
    app.add_api_route("/favicon.ico", lambda: Response(status_code=204), include_in_schema=False, response_model=None)
    for path, (name, kind) in PAGE.items():
        content = folder.joinpath(name).read_bytes()
        headers = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}

        def page(content: bytes = content, kind: str = kind, headers: dict[str, str] = headers) -> Response:
            return Response(content, media_type=f"{kind}; charset=utf-8", headers=headers)

        app.add_api_route(path, page, include_in_schema=False, methods=["GET"], response_model=None)
