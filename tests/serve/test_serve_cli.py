"""``diekae serve``: what it refuses before a decoder is loaded, and the address it names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import uvicorn

from diekae.cli import serve
from tiny_served_model import make_served_model


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decoder": "smollm2", "bank": Path("smollm2")}, "give one of them"),
        ({"host": "0.0.0.0"}, "give --api-key-file"),
        ({"host": "example.org"}, "give --api-key-file"),
    ],
)
def test_what_cannot_be_served_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        serve.command(**options)


def test_a_free_port_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ports: list[int] = []

    def run(_server: Any, sockets: list[Any]) -> None:
        ports.append(sockets[0].getsockname()[1])
        sockets[0].close()

    monkeypatch.setattr(uvicorn.Server, "run", run)
    monkeypatch.setattr(serve, "load_model", lambda *_, **__: make_served_model())
    serve.command(store=tmp_path / "store", port=0)
    assert f"http://127.0.0.1:{ports[0]} " in capsys.readouterr().out and ports[0]
