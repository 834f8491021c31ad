"""A server on this machine's loopback address, with a tiny random decoder."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")
openai = pytest.importorskip("openai")
uvicorn = pytest.importorskip("uvicorn")

from builders import hook_count  # noqa: E402
from diekae.serve import create_app  # noqa: E402
from diekae.serve.state import State  # noqa: E402
from tiny_served_model import make_served_model  # noqa: E402


@dataclass
class Served:
    """A server that runs in a thread of this process."""

    app: Any
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def state(self) -> State:
        state: State = self.app.state.diekae
        return state

    def client(self, key: str = "none") -> Any:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0)

    def add(self, text: str, name: str = "notes.txt", key: str = "none") -> Any:
        """Upload a text and wait until it is prepared."""
        client = self.client(key)
        file = client.files.create(file=(name, text.encode()), purpose="assistants")
        deadline = time.monotonic() + 30
        while file.status == "uploaded":
            assert time.monotonic() < deadline
            time.sleep(0.02)
            file = client.files.retrieve(file.id)
        return file

    def settle(self) -> None:
        """Wait until the engine has nothing to do."""
        deadline = time.monotonic() + 30
        while self.state.engine.running or self.state.engine.waiting:
            assert time.monotonic() < deadline, "an answer goes on"
            time.sleep(0.02)


@contextlib.contextmanager
def running_server(**options: Any) -> Iterator[Served]:
    """Serve until the block ends; then nothing of it may be left in the decoder."""
    model = make_served_model()
    app = create_app(model, name="tiny", **options)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield Served(app, port)
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive() and hook_count(model.decoder) == 0 and model.editor is None


Serve = Callable[..., Served]
