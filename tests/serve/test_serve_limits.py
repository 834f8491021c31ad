"""Keys, hosts, sizes, time-outs, full queues, and clients that leave."""

from __future__ import annotations

import http.client
import json
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from diekae.serve import EngineOptions, Keys, ServerOptions
from diekae.serve.access import check_host
from diekae.serve.engine import Busy
from served import Serve, Served
from tiny_served_model import TOWER

KEY = "k" * 16
CLIENT = httpx.Client()
CHAT = {"messages": [{"role": "user", "content": "Who?"}], "max_tokens": 4}


def post(server: Served, body: Any = None, path: str = "/v1/chat/completions", **options: Any) -> httpx.Response:
    content = json.dumps(CHAT if body is None else body).encode()
    headers = {"content-type": "application/json", **options.pop("headers", {})}
    return CLIENT.post(server.url + path, content=content, headers=headers, timeout=30, **options)


def test_without_the_right_key_nothing_is_served(serve: Serve) -> None:
    server = serve(keys=Keys([("*", KEY), ("ann", "a" * 16)]))
    for header in (None, "", "Bearer", f"Bearer {KEY}x", f"Basic {KEY}", "Bearer \xff"):
        headers = {} if header is None else {"authorization": header.encode("latin-1")}
        for path in ("/v1/chat/completions", "/v1/nothing"):
            response = post(server, path=path, headers=headers)
            assert response.status_code == 401 and response.json()["error"]["type"] == "authentication_error"
        assert CLIENT.get(f"{server.url}/metrics", headers=headers).status_code == 401
    assert post(server, headers={"authorization": f"Bearer {KEY}"}).status_code == 200
    # What is no secret needs none; a tenant sees no metrics.
    assert [CLIENT.get(server.url + path).status_code for path in ("/", "/page.js", "/health")] == [200] * 3
    ann = {"authorization": f"Bearer {'a' * 16}"}
    assert CLIENT.get(f"{server.url}/metrics", headers=ann).status_code == 403
    assert CLIENT.get(f"{server.url}/v1/models", headers=ann).status_code == 200
    # The body of a stranger is not waited for.
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.putrequest("POST", "/v1/files")
    connection.putheader("Content-Length", "1000000")
    connection.endheaders()
    assert connection.getresponse().status == 401
    connection.close()


def test_a_server_without_keys_is_for_this_machine_alone(server: Served) -> None:
    assert post(server, headers={"host": "evil.example"}).status_code == 403
    assert post(server, headers={"host": ""}).status_code == 403
    assert post(server, headers={"origin": "http://evil.example"}).status_code == 403
    assert post(server, headers={"origin": "null"}).status_code == 403
    form = {"file": ("a.txt", b"poison", "text/plain")}
    headers = {"origin": "http://evil.example"}
    assert CLIENT.post(f"{server.url}/v1/files", files=form, headers=headers).status_code == 403
    for host in (f"localhost:{server.port}", f"[::1]:{server.port}", "127.0.0.1"):
        assert post(server, headers={"host": host, "origin": f"http://{host}"}).status_code == 200
    for host in ("127.0.0.1", "localhost", "::1", "127.1.2.3"):
        check_host(host, Keys([]))
    for host in ("0.0.0.0", "::", "", "192.168.1.5", "example.org"):
        with pytest.raises(ValueError, match="give --api-key-file"):
            check_host(host, Keys([]))
        check_host(host, Keys([("*", KEY)]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no key"),
        ("ann", "must be a tenant's name"),
        ("ann short", "shorter than 16"),
        (f"a/b {KEY}", "must be a tenant's name"),
        (f"ann {KEY}\nbob {KEY}", "line 2 .* earlier line"),
    ],
)
def test_key_files_are_checked(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "keys"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        Keys.read(path)
    path.write_text(f"# comment\n\n* {KEY}\n")
    tenant = Keys.read(path).tenant(f"Bearer {KEY}")
    assert tenant is not None and tenant.everything


@pytest.mark.parametrize("announced", [True, False])
def test_bodies_that_are_too_large_are_refused(serve: Serve, announced: bool) -> None:
    server = serve(options=ServerOptions(most_body=5000, most_file=5000))
    body = json.dumps({**CHAT, "user": "x" * 6000}).encode()
    content: Any = body if announced else (body[at : at + 500] for at in range(0, len(body), 500))
    headers = {"content-type": "application/json"}
    response = CLIENT.post(f"{server.url}/v1/chat/completions", content=content, headers=headers)
    assert response.status_code == 413 and "more than 5000 bytes" in response.json()["error"]["message"]
    with pytest.raises(openai.APIStatusError) as caught:
        server.client().files.create(file=("a.txt", b"x" * 200_000), purpose="assistants")
    assert caught.value.status_code == 413
    assert post(server).status_code == 200


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_that_takes_too_long_is_given_up(serve: Serve, stream: bool) -> None:
    server = serve(options=ServerOptions(timeout=0.3, most_tokens=2000))
    response = post(server, {**CHAT, "max_tokens": 1800, "stream": stream})
    assert "no answer within 0.3 s" in response.text and response.status_code == (200 if stream else 504)
    server.settle()


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_ends_its_answers(server: Served, stream: bool) -> None:
    body = {**CHAT, "max_tokens": 1000, "stream": stream, "n": 2}
    with pytest.raises(httpx.ReadTimeout):
        with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body, timeout=0.3) as response:
            for number, _ in enumerate(response.iter_lines()):
                if number > 5:
                    raise httpx.ReadTimeout("enough")
    began = time.monotonic()
    server.settle()
    assert time.monotonic() - began < 5
    text = CLIENT.get(f"{server.url}/metrics").text
    assert float(text.split("\ndiekae_cancelled_answers_total ")[1].split("\n")[0]) >= 2


def test_a_full_queue_says_when_to_come_again(serve: Serve) -> None:
    server = serve(engine_options=EngineOptions(batch_size=1, queue_size=2))
    assert post(server, {**CHAT, "n": 3}).status_code == 400  # never possible
    statuses, headers = [], []

    def ask() -> None:
        response = post(server, {**CHAT, "max_tokens": 60})
        statuses.append(response.status_code)
        headers.append(response.headers.get("retry-after"))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert set(statuses) == {200, 429}
    assert all((status == 429) == (header == "1") for status, header in zip(statuses, headers, strict=True))


def test_pages_of_other_servers_are_not_needed(server: Served) -> None:
    assert CLIENT.get(f"{server.url}/docs").status_code == 404  # FastAPI's loads scripts from elsewhere
    policy = CLIENT.get(server.url).headers["content-security-policy"]
    assert policy.startswith("default-src 'self'")
    for path in ("/", "/page.js", "/page.css"):
        text = CLIENT.get(server.url + path).text
        assert "http://" not in text and "https://" not in text and "innerHTML" not in text
    for path in ("/page/../app.py", "/page.py", "/..%2fapp.py", "/v1/files/..%2f..%2fserver.sqlite/content"):
        assert CLIENT.get(server.url + path).status_code == 404


def test_errors_have_one_shape(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    for response in (
        post(server, path="/v1/nothing"),
        CLIENT.get(f"{server.url}/v1/chat/completions"),
        CLIENT.post(f"{server.url}/v1/chat/completions", content=b"{", headers={"content-type": "application/json"}),
        CLIENT.post(f"{server.url}/v1/chat/completions", content=json.dumps(CHAT).encode()),
        post(server, {"messages": [{"role": "user", "content": "\ud800"}]}),
        post(server, {**CHAT, "knowledge": {"documents": ["\ud800"]}}),
    ):
        assert 400 <= response.status_code < 500 and set(response.json()["error"]) == {
            "message", "type", "param", "code",
        }  # fmt: skip
    monkeypatch.setattr(server.state.reader, "read", lambda *_: 1 / 0)
    response = post(server, {**CHAT, "knowledge": {"text": TOWER}})
    assert response.status_code == 500 and response.json()["error"]["type"] == "server_error"


def test_long_preparations_hold_nobody_else_up(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    import diekae.serve.reading as reading

    server, release, prepare = serve(), threading.Event(), reading.read_documents

    def slowly(*args: Any, **kwargs: Any) -> Any:
        assert release.wait(30)
        return prepare(*args, **kwargs)

    monkeypatch.setattr(reading, "read_documents", slowly)
    statuses: list[int] = []

    def ask(number: int) -> None:
        with httpx.Client() as client:
            body = {**CHAT, "knowledge": {"text": f"{TOWER} {number}"}}
            statuses.append(client.post(f"{server.url}/v1/chat/completions", json=body, timeout=60).status_code)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    assert post(server).status_code == 200 and CLIENT.get(f"{server.url}/health").status_code == 200
    assert server.add(TOWER).status == "processed"
    assert not statuses
    release.set()
    for thread in threads:
        thread.join(60)
    assert statuses == [200] * 8


def test_a_client_that_leaves_before_its_knowledge_is_prepared_waits_for_nothing(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    import diekae.serve.reading as reading

    server, release, texts, prepare = serve(), threading.Event(), list[Any](), reading.read_documents

    def slowly(*args: Any, **kwargs: Any) -> Any:
        texts.append(args)
        assert release.wait(30)
        return prepare(*args, **kwargs)

    monkeypatch.setattr(reading, "read_documents", slowly)
    for number in range(8):
        with pytest.raises(httpx.ReadTimeout):
            body = {**CHAT, "knowledge": {"text": f"{TOWER} {number}"}}
            httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=0.2)
    deadline = time.monotonic() + 10
    while server.state.readers._pending > 4:  # the threads that have begun
        assert time.monotonic() < deadline, "a client that has left is served"
        time.sleep(0.02)
    release.set()
    server.settle()
    while server.state.readers._pending:
        time.sleep(0.02)
    assert len(texts) <= 4
    assert 'status="499"' in CLIENT.get(f"{server.url}/metrics").text


def test_an_answer_is_not_lost_for_its_confidence_and_shares(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    server.add(TOWER)
    run, calls = server.state.workers.run, list[Any]()

    async def full(function: Any, *args: Any) -> Any:
        calls.append(function)
        if len(calls) > 1:
            raise Busy("8 requests are being prepared already")
        return await run(function, *args)

    for stream in (False, True):
        calls.clear()
        monkeypatch.setattr(server.state.workers, "run", full)
        response = post(server, {**CHAT, "stream": stream, "knowledge": {"search": {"k": 1}, "shares": True}})
        monkeypatch.undo()
        # The prompt, the confidence and the shares; the confidence is then that of the search.
        assert response.status_code == 200 and len(calls) == 3
        assert '"share":null' in response.text.replace(" ", "") and '"confidence":0.' in response.text.replace(" ", "")
        assert not stream or response.text.endswith("data: [DONE]\n\n")


def test_an_answer_that_a_stopping_server_cuts_off_is_no_answer(serve: Serve) -> None:
    server, responses = serve(options=ServerOptions(most_tokens=2000)), list[httpx.Response]()
    body = {**CHAT, "max_tokens": 1800}
    thread = threading.Thread(target=lambda: responses.append(post(server, body)))
    thread.start()
    while not server.state.engine.running:
        time.sleep(0.01)
    server.state.engine.stop(0.0)
    thread.join(30)
    assert responses[0].status_code == 503 and "stopped before" in responses[0].json()["error"]["message"]
