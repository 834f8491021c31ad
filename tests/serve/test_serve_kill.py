"""Killed at any moment, a server loses nothing that it has acknowledged; told to stop, it finishes what it does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

Start = Callable[[], tuple[int, httpx.Client]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start servers on one folder; returns the process and a client."""
    script = Path(__file__).with_name("killable.py")
    process = subprocess.Popen(
        [sys.executable, script, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    started: list[int] = []

    def begin() -> tuple[int, httpx.Client]:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write("\n")
        process.stdin.flush()
        number, port = process.stdout.readline().split()
        started.append(int(number))
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)
        deadline = time.monotonic() + 30
        while True:
            try:
                assert client.get("/health").status_code == 200
                return int(number), client
            except httpx.TransportError:
                assert time.monotonic() < deadline
                time.sleep(0.02)

    yield begin
    for number in started:
        try:
            os.kill(number, signal.SIGKILL)
        except ProcessLookupError:
            pass
    process.kill()
    process.communicate()


def upload(client: httpx.Client, name: str, text: str) -> str:
    response = client.post("/v1/files", files={"file": (name, text.encode())}, data={"purpose": "assistants"})
    assert response.status_code == 200, response.text
    return str(response.json()["id"])


def edit(client: httpx.Client, number: int, subject: str) -> int:
    body = {"prompt": f"The colour of {subject} is", "subject": subject, "target": f"shade {number}"}
    response = client.post("/v1/edits", json=body)
    assert response.status_code == 200, response.text
    return int(response.json()["id"])


def repeat(work: Callable[[int], None]) -> threading.Thread:
    """Work until the server is gone."""

    def run() -> None:
        for number in range(10_000):
            try:
                work(number)
            except httpx.TransportError:
                return

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_what_was_acknowledged_outlives_kills(start: Start) -> None:
    files: dict[str, str] = {}
    edits: set[int] = set()
    deleted: set[str] = set()
    in_hand: dict[int, str] = {}  # the last deletion of each life, which the kill may have met before its answer
    for life, seconds in enumerate((0.4, 0.9, 0.6)):
        number, client = start()

        def files_of(n: int, life: int = life, client: httpx.Client = client) -> None:
            text = f"Note {n} of life {life}. " * (1 + n % 7)
            file = upload(client, f"note-{life}-{n}.txt", text)
            files[file] = text
            if n % 5 == 4:
                in_hand[life] = file
                assert client.delete(f"/v1/files/{file}").json()["deleted"]
                deleted.add(file)

        def edits_of(n: int, life: int = life, client: httpx.Client = client) -> None:
            edits.add(edit(client, n, f"ship {life}-{n}"))

        threads = [repeat(files_of), repeat(edits_of)]
        time.sleep(seconds)
        deadline = time.monotonic() + 60
        while len(files) < 2 * (life + 1) and time.monotonic() < deadline:  # a slow machine needs longer
            time.sleep(0.01)
        os.kill(number, signal.SIGKILL)
        for thread in threads:
            thread.join(30)
    assert len(files) > 5 and edits
    number, client = start()
    deadline = time.monotonic() + 60
    while "uploaded" in {file["status"] for file in client.get("/v1/files").json()["data"]}:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    listed = {file["id"]: file for file in client.get("/v1/files").json()["data"]}
    assert {file["status"] for file in listed.values()} == {"processed"}
    assert files.keys() - deleted - set(in_hand.values()) <= listed.keys() and not deleted & listed.keys()
    for file, text in list(files.items())[:20]:
        if file in listed:
            assert client.get(f"/v1/files/{file}/content").text == text
    assert edits <= {entry["id"] for entry in client.get("/v1/edits").json()["data"]}
    # All of it is read, and edits speak.
    body = {"messages": [{"role": "user", "content": "What is note 0 of life 0?"}], "max_tokens": 2}
    response = client.post("/v1/chat/completions", json={**body, "knowledge": {"search": {}}})
    assert response.json()["knowledge"]["sources"]
    # A graceful stop finishes the answers that run.
    answers: list[httpx.Response] = []
    long = {**body, "max_tokens": 200}
    thread = threading.Thread(target=lambda: answers.append(client.post("/v1/chat/completions", json=long)))
    thread.start()
    while "diekae_running_answers 1.0" not in httpx.get(f"{client.base_url}/metrics").text and thread.is_alive():
        time.sleep(0.01)
    os.kill(number, signal.SIGTERM)
    thread.join(60)
    assert answers[0].json()["usage"]["completion_tokens"] == 200
