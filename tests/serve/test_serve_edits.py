"""``/v1/edits``: in force for the next answer, and reverted for the one after."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from diekae.answering import ask as answer
from diekae.answering import reading_confidence
from diekae.answering.reading_confidence import ReadingConfidence
from diekae.serve import Keys
from served import Serve, Served

EDIT = {"prompt": "The colour of the silver ship is", "subject": "silver ship", "target": "green"}
ADMIN, ANN = {"authorization": f"Bearer {'a' * 16}"}, {"authorization": f"Bearer {'b' * 16}"}


def ask(server: Served, **options: Any) -> str:
    """Ask with much chance and a seed: what a random decoder says is then sensitive to all that it reads."""
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": "What is the colour of the silver ship?"}],
        "max_tokens": 16,
    }
    body |= {"temperature": 1.5, "seed": 3}
    response = httpx.post(f"{server.url}/v1/chat/completions", json={**body, **options}, timeout=30)
    return str(response.json()["choices"][0]["message"]["content"])


def test_edits_are_added_listed_and_reverted(serve: Serve, tmp_path: Path) -> None:
    server = serve(edits=tmp_path / "edits")
    url = f"{server.url}/v1/edits"
    before = ask(server)
    edit = httpx.post(url, json=EDIT).json()
    assert edit["status"] == "live" and edit["target"] == "green"
    assert [entry["id"] for entry in httpx.get(url).json()["data"]] == [edit["id"]]
    during = ask(server)
    assert during != before
    # Beside knowledge, and streamed, for the same prompt.
    text = "The king lives in the castle by the river and the old town is in the north, and all the ships are red."
    assert ask(server, knowledge={"text": text}) not in (before, during)
    assert httpx.post(url, json=EDIT).status_code == 400  # it is in force already
    assert httpx.post(url, json={**EDIT, "subject": "castle"}).status_code == 400
    assert httpx.post(url, json={**EDIT, "more": 1}).status_code == 400
    assert httpx.delete(f"{url}/{edit['id']}").json()["status"] == "reverted"
    assert ask(server) == before
    assert httpx.get(url).json()["data"] == []
    assert [entry["status"] for entry in httpx.get(url, params={"every": True}).json()["data"]] == ["reverted"]
    for id in (edit["id"], 99, -1, 2**70):
        assert httpx.delete(f"{url}/{id}").status_code == 404


def test_an_edit_speaks_after_any_system_message_and_in_completions(serve: Serve, tmp_path: Path) -> None:
    server = serve(edits=tmp_path / "edits")
    question = "What is the colour of the silver ship?"
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": question}]
    known = {"knowledge": {"text": "The harbour is deep."}}
    requests: list[tuple[str, dict[str, Any]]] = [
        (path, {**prompt, **more, "max_tokens": 4})
        for path, prompt in (
            ("chat/completions", {"messages": turns, "logprobs": True}),
            ("completions", {"prompt": question, "logprobs": 1}),
        )
        for more in ({}, known)
    ]

    def answers() -> list[Any]:
        responses = [httpx.post(f"{server.url}/v1/{path}", json=body, timeout=30) for path, body in requests]
        assert [response.status_code for response in responses] == [200] * 4, [r.text for r in responses]
        return [response.json()["choices"] for response in responses]

    before = answers()
    edit = httpx.post(f"{server.url}/v1/edits", json=EDIT).json()
    for during, bare in zip(answers(), before, strict=True):
        assert during != bare
    httpx.delete(f"{server.url}/v1/edits/{edit['id']}")
    assert answers() == before


def test_the_confidence_is_that_of_passages_and_edits(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(store=tmp_path / "store", edits=tmp_path / "edits")
    model, store = server.state.model, server.state.reader.store
    store.add("The silver ship is in the harbour. The colour of the castle is red.")
    weights = torch.randn(model.decoder.config.hidden_size, generator=torch.Generator().manual_seed(0))
    fitted = ReadingConfidence(model.bank.decoder, "chat", 1, tuple(weights.tolist()), (0.0, 0.0, 0.0), 0.5)
    monkeypatch.setattr(reading_confidence, "_shipped", lambda: {(fitted.decoder, fitted.format): fitted})
    question = "What is the colour of the silver ship?"
    body = {"messages": [{"role": "user", "content": question}], "knowledge": {"search": {"k": 2}}, "max_tokens": 2}

    def confidence() -> float:
        response = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=30)
        return float(response.json()["knowledge"]["confidence"])

    before = confidence()
    httpx.post(f"{server.url}/v1/edits", json=EDIT)
    assert confidence() == pytest.approx(answer(model, question, store, max_new_tokens=2).confidence, abs=1e-5)
    assert confidence() != pytest.approx(before, abs=1e-5)


def test_edits_that_come_and_go_while_answers_run_break_none(serve: Serve, tmp_path: Path) -> None:
    server = serve(edits=tmp_path / "edits")
    before = ask(server)
    httpx.post(f"{server.url}/v1/edits", json=EDIT)
    during = ask(server)
    answers: list[str] = []

    def questions() -> None:
        answers.extend(ask(server) for _ in range(3))

    threads = [threading.Thread(target=questions) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(6):
        live = httpx.get(f"{server.url}/v1/edits").json()["data"]
        if live:
            assert httpx.delete(f"{server.url}/v1/edits/{live[0]['id']}").status_code == 200
        else:
            assert httpx.post(f"{server.url}/v1/edits", json=EDIT).status_code == 200, number
    for thread in threads:
        thread.join(60)
    assert len(answers) == 9 and set(answers) <= {before, during}


def test_only_the_owner_edits(serve: Serve, tmp_path: Path) -> None:
    server = serve(edits=tmp_path / "edits", keys=Keys([("*", "a" * 16), ("ann", "b" * 16)]))
    url = f"{server.url}/v1/edits"
    assert httpx.post(url, json=EDIT, headers=ANN).status_code == 403
    edit = httpx.post(url, json=EDIT, headers=ADMIN).json()
    assert httpx.delete(f"{url}/{edit['id']}", headers=ANN).status_code == 403
    assert len(httpx.get(url, headers=ANN).json()["data"]) == 1


def test_a_server_without_edits_says_so(server: Served) -> None:
    response = httpx.get(f"{server.url}/v1/edits")
    assert response.status_code == 404 and "start it with --edits" in response.text
