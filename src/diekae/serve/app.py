"""The server: what it opens and closes, its routes, and the page."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path

from fastapi import FastAPI, Response
from starlette.concurrency import run_in_threadpool

from diekae.edit.attach import open_edits
from diekae.model import DiekaeModel
from diekae.serve import completions, documents, facts, status
from diekae.serve.access import Keys
from diekae.serve.engine import Engine
from diekae.serve.errors import add_errors
from diekae.serve.intake import Intake
from diekae.serve.library import Library
from diekae.serve.limits import Limits
from diekae.serve.metrics import Metrics
from diekae.serve.options import EngineOptions, ServerOptions
from diekae.serve.reading import KnowledgeReader
from diekae.serve.state import State, Workers
from diekae.store import KnowledgeStore
from diekae.store.embedders import EmbedderChoice
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
    embedder: EmbedderChoice = None,
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
        embedder: The store's, as for :class:`diekae.KnowledgeStore`.
        edits: Folder of edits; None serves without.
        keys: Who may ask; everyone if None or empty.
        engine_options: How requests share the decoder.
        options: Limits.

    Raises:
        ValueError: There is an embedder, but no store.
    """
    if embedder is not None and store is None:
        raise ValueError("an embedder finds passages of a store, but no store is named; name it, too.")
    limits, metrics, allowed = options or ServerOptions(), Metrics(), keys or Keys([])

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        state = _open(model, name, store, embedder, edits, engine_options, limits, metrics)
        app.state.diekae = state
        yield
        await run_in_threadpool(_close, state)

    # No page of documentation: FastAPI's loads its scripts from another server.
    app = FastAPI(title="diekae", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_middleware(Limits, metrics=metrics, keys=allowed, options=limits)
    for module in (completions, documents, facts, status):
        app.include_router(module.router)
    add_errors(app)
    _add_pages(app)
    return app


def _open(
    model: DiekaeModel,
    name: str,
    store: str | Path | None,
    embedder: EmbedderChoice,
    edits: str | Path | None,
    engine_options: EngineOptions | None,
    options: ServerOptions,
    metrics: Metrics,
) -> State:
    """Open documents and edits, and start the threads."""
    opened = None if edits is None else open_edits(model, edits)
    if opened is not None:
        opened.refresh()
    documents = library = intake = None
    if store is not None:
        documents = KnowledgeStore(store, model, embedder=embedder)
        library = Library(documents.folder)
        intake = Intake(library, documents, metrics, options.most_knowledge)
        metrics.watch("waiting_files", "Uploaded files that are not read yet", lambda: intake.waiting)
    if opened is not None:
        model.editor = opened
    engine = Engine(model, engine_options)
    metrics.watch("waiting_answers", "Answers that wait", lambda: engine.waiting)
    metrics.watch("running_answers", "Answers that are generated now", lambda: engine.running)
    return State(
        model=model,
        name=name,
        engine=engine,
        reader=KnowledgeReader(model, documents, library, options.most_knowledge, metrics.prepared.inc),
        metrics=metrics,
        workers=Workers("worker", engine.options.queue_size),
        readers=Workers("reader", engine.options.queue_size),
        options=options,
        intake=intake,
        edits=opened,
    )


def _close(state: State) -> None:
    """Finish what runs, close files, and leave the model as it was."""
    state.engine.stop(STOP)
    state.workers.stop()
    state.readers.stop()
    if state.intake is not None and state.intake.stop(STOP):
        state.intake.library.close()
    if state.edits is not None:
        state.model.editor = None
        state.edits.store.close()


def _add_pages(app: FastAPI) -> None:
    """Serve the page: three files of this package, and nothing else."""
    folder = files("diekae.serve") / "page"
    app.add_api_route("/favicon.ico", _nothing, include_in_schema=False)
    for path, (name, kind) in PAGE.items():
        app.add_api_route(path, _page(folder.joinpath(name).read_bytes(), kind), include_in_schema=False)


async def _nothing() -> Response:
    return Response(status_code=204)


def _page(content: bytes, kind: str) -> Callable[[], Awaitable[Response]]:
    headers = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}

    async def page() -> Response:
        return Response(content, media_type=f"{kind}; charset=utf-8", headers=headers)

    return page
