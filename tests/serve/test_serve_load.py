"""Load: many requests at once, with different documents, half of them streaming, a tenth of the clients leaving."""

from __future__ import annotations

import asyncio
import gc
import json
import random
import threading
from typing import Any

import httpx

from served import Serve, Served

REQUESTS, AT_ONCE = 200, 16
TEXTS = [f"The {name} is {number} metres tall. " * (1 + number % 4) for number, name in enumerate(
    ("tower", "castle", "bridge", "lighthouse", "mast", "gate"), 3
)]  # fmt: skip


def bodies(documents: list[str]) -> list[dict[str, Any]]:
    """Twenty requests that differ in all that could be mixed up."""
    made = []
    for number in range(20):
        system = [{"role": "system", "content": "Be brief."}] if number % 5 == 4 else []
        body: dict[str, Any] = {
            "messages": [*system, {"role": "user", "content": f"How tall is it, number {number}?"}],
            "max_tokens": 6 + number % 9,
            "temperature": (0.0, 1.0, 1.5)[number % 3],
            "seed": number,
        }
        knowledge = [None, {"documents": [documents[number % 6]]}, {"text": TEXTS[number % 6]}, {"search": {"k": 1}}]
        if knowledge[number % 4]:
            body["knowledge"] = knowledge[number % 4]
        made.append(body)
    return made


async def ask(client: httpx.AsyncClient, body: dict[str, Any], stream: bool = False, leave: bool = False) -> str | None:
    """Return an answer; None if the client has left or was told to come later."""
    if not stream:
        try:
            response = await client.post("/v1/chat/completions", json=body, timeout=0.03 if leave else 60.0)
        except httpx.TimeoutException:
            assert leave
            return None
        assert response.status_code in (200, 429), response.text
        return str(response.json()["choices"][0]["message"]["content"]) if response.status_code == 200 else None
    text = ""
    async with client.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as response:
        assert response.status_code in (200, 429)
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line[6:])
            assert "error" not in chunk, chunk
            text += "".join(choice["delta"].get("content", "") for choice in chunk["choices"])
            if leave and text:
                return None
    return text if response.status_code == 200 else None


async def load(server: Served, wanted: list[dict[str, Any]], alone: list[str | None]) -> int:
    """Send all requests; return how many were answered, all as they are alone."""
    turn, answered = asyncio.Semaphore(AT_ONCE), 0
    chance = random.Random(0)

    async def send(number: int) -> None:
        nonlocal answered
        which, stream, leave = number % len(wanted), chance.random() < 0.5, chance.random() < 0.1
        async with turn:
            answer = await ask(client, wanted[which], stream, leave)
        if answer is not None:
            assert answer == alone[which], (wanted[which], stream)
            answered += 1

    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        await asyncio.gather(*(send(number) for number in range(REQUESTS)))
    return answered


def resident() -> int:
    """Bytes of this process in RAM."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def test_load(serve: Serve) -> None:
    server = serve()
    documents = [server.add(text).id for text in TEXTS]
    wanted = bodies(documents)

    async def one_by_one() -> list[str | None]:
        async with httpx.AsyncClient(base_url=server.url) as client:
            return [await ask(client, body) for body in wanted]

    alone = asyncio.run(one_by_one())
    assert len(set(alone)) > 12, "requests must differ, or a mix-up is not seen"
    threads, before = threading.active_count(), resident()
    answered = asyncio.run(load(server, wanted, alone))
    server.settle()
    gc.collect()
    assert answered > 0.8 * REQUESTS
    assert resident() - before < 60_000_000
    assert threading.active_count() <= threads + 8  # readers and workers
    assert server.state.workers._pending == server.state.readers._pending == 0 and server.state.engine._live == []
