"""`diekae serve`: an OpenAI-compatible server, with a page."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diekae.cli.console import (
    EXACT,
    SHIPPED,
    AnyBankOption,
    DecoderOption,
    DeviceOption,
    DtypeOption,
    EmbedderOption,
    chosen_bank,
    load_model,
    print_text,
)
from diekae.serve.access import Keys, check_host
from diekae.serve.options import EngineOptions, ServerOptions
from diekae.store.embedders import make_embedder

if TYPE_CHECKING:
    from fastapi import FastAPI


def command(
    decoder: DecoderOption = None,
    bank: AnyBankOption = None,
    store: Annotated[Path | None, typer.Option(help="Folder of documents and uploads; made if missing.")] = None,
    embedder: EmbedderOption = None,
    edits: Annotated[Path | None, typer.Option(help="Folder of edits; made if missing.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen at; a public one needs --api-key-file.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen at; 0 takes a free one.")] = 8000,
    api_key_file: Annotated[
        Path | None, typer.Option(help="File with a tenant's name and a key on each line; tenant * may do everything.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model for clients; by default the decoder's.")] = None,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Most answers that are generated at once.")
    ] = EngineOptions.batch_size,
    queue_size: Annotated[
        int, typer.Option(min=1, help="Most answers that wait; others are refused with 429.")
    ] = EngineOptions.queue_size,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = ServerOptions.most_tokens,
    max_knowledge: Annotated[
        int, typer.Option(min=1, help="Most tokens of one document, and of what one request reads.")
    ] = ServerOptions.most_knowledge,
    timeout: Annotated[
        float, typer.Option(min=1, help="Seconds after which a request is cancelled.")
    ] = ServerOptions.timeout,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
) -> None:
    """Serve decoder, documents and edits over HTTP: /v1/chat/completions, /v1/files, /v1/edits, … and a page at /."""
    if importlib.util.find_spec("fastapi") is None or importlib.util.find_spec("uvicorn") is None:
        raise ModuleNotFoundError("serving needs FastAPI and uvicorn: run `pip install 'diekae[serve]'`.")
    from diekae.serve.app import create_app

    # An edit needs what was trained for it, which comes with the trained bank.
    bank = chosen_bank(bank, decoder, EXACT if edits is None else SHIPPED)
    keys = Keys([]) if api_key_file is None else Keys.read(api_key_file)
    check_host(host, keys)
    model = load_model(bank, device, dtype, format="auto", decoder=decoder)
    app = create_app(
        model,
        name=name or Path(model.decoder.config.name_or_path or "diekae").name,
        store=store,
        embedder=embedder and make_embedder(embedder, model.device),  # loaded here, so that errors are sentences
        edits=edits,
        keys=keys,
        engine_options=EngineOptions(batch_size, queue_size),
        options=ServerOptions(most_tokens=max_tokens, most_knowledge=max_knowledge, timeout=timeout),
    )
    _run(app, host, port)


def _run(app: FastAPI, host: str, port: int) -> None:
    """Serve until the process is told to stop, and say where."""
    import uvicorn

    from diekae.serve.app import STOP

    config = uvicorn.Config(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=int(STOP))
    socket = config.bind_socket()
    port = socket.getsockname()[1]
    print_text(f"serving at http://{f'[{host}]' if ':' in host else host}:{port} (Ctrl-C stops)")
    uvicorn.Server(config).run(sockets=[socket])
