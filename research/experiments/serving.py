"""Throughput of the server: requests together, one after the other, and D(K, x) behind a cached prefix.

    python research/experiments/serving.py --json research/results/speed/serving.json

The same questions on the same documents, SmolLM2, greedy, answers of a fixed length; the ways in turn, several rounds.
The server's ways go through HTTP on loopback. The cached prefix is called in the process itself, one question after the
other: the keys and values of anchor and document are kept, and copied for each question.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import torch
import uvicorn
from transformers import DynamicCache

from diekae.cli.console import EXACT
from diekae.model import DiekaeModel
from diekae.provenance import provenance, write_json
from diekae.serve import EngineOptions, create_app

QUESTIONS = (
    "How tall is the tower?",
    "Who designed it?",
    "When was it built?",
    "What is it made of?",
    "Who owns it?",
    "How many people visit it?",
    "What can be seen from it?",
    "Where is it?",
)


def documents(count: int) -> list[str]:
    """Return texts of some 400 tokens that differ in their headings; what they say does not matter for the time."""
    text = files("diekae.demo").joinpath("document.txt").read_text()
    return ["\n\n".join(f"Part {part} of report {number}.\n\n{text}" for part in range(4)) for number in range(count)]


class Cached:
    """D(K, x) behind a cached prefix, one question after the other."""

    def __init__(self, model: DiekaeModel, texts: list[str], tokens: int) -> None:
        """Read all documents once."""
        self.model, self.tokens, self.prefixes = model, tokens, []
        for text in texts:
            ids = (*model.anchor, *model.need_prompter().knowledge(text))
            cache = DynamicCache(config=model.decoder.config)
            with torch.no_grad():
                model.decoder(input_ids=torch.tensor([ids]), cache=cache, use_cache=True, logits_to_keep=1)
            self.prefixes.append((ids, cache))

    def answer_all(self, pairs: list[tuple[int, str]]) -> None:
        """Answer questions, each given with the number of its document."""
        generate: Any = self.model.decoder.generate
        for document, question in pairs:
            ids, cache = self.prefixes[document]
            row = torch.tensor([[*ids, *self.model.need_prompter().chat([{"role": "user", "content": question}])[1]]])
            with torch.no_grad():
                generate(
                    input_ids=row,
                    attention_mask=torch.ones_like(row),
                    cache=copy.deepcopy(cache),
                    max_new_tokens=self.tokens,
                    do_sample=False,
                    pad_token_id=0,
                )


async def served(url: str, work: list[tuple[str, str]], tokens: int, at_once: int) -> None:
    """Answer all questions over HTTP, some at once."""
    turn = asyncio.Semaphore(at_once)

    async def ask(client: httpx.AsyncClient, file: str, question: str) -> None:
        messages = [{"role": "user", "content": question}]
        body = {"messages": messages, "max_tokens": tokens, "knowledge": {"documents": [file]}}
        async with turn:
            response = await client.post("/v1/chat/completions", json=body)
        assert response.json()["usage"]["completion_tokens"] == tokens, response.text

    async with httpx.AsyncClient(base_url=url, timeout=600) as client:
        await asyncio.gather(*(ask(client, *item) for item in work))


def upload(url: str, texts: list[str]) -> list[str]:
    """Upload documents and wait until they are prepared; return the ids of their files."""
    names: list[str] = []
    with httpx.Client(base_url=url, timeout=600) as client:
        for text in texts:
            names.append(client.post("/v1/files", files={"file": ("report.txt", text.encode())}).json()["id"])
        while any(file["status"] == "uploaded" for file in client.get("/v1/files").json()["data"]):
            time.sleep(0.2)
    return names


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the seconds of each way and their ratios."""
    model = DiekaeModel.from_pretrained(EXACT, format="auto", dtype=torch.float32)
    texts = documents(arguments.documents)
    cached = Cached(model, texts, arguments.tokens)
    pairs = [(n % len(texts), QUESTIONS[n % len(QUESTIONS)]) for n in range(arguments.requests)]
    with tempfile.TemporaryDirectory() as folder:
        app = create_app(model, store=folder, engine_options=EngineOptions(batch_size=arguments.batch_size))
        server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
        thread = threading.Thread(target=server.run)
        thread.start()
        while not server.started:
            time.sleep(0.05)
        # Answers of one length: no token ends one.
        app.state.diekae.engine.ends = set()
        model.decoder.generation_config.eos_token_id = None
        url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        names = upload(url, texts)
        work = [(names[document], question) for document, question in pairs]
        ways: dict[str, Callable[[], None]] = {
            "one_after_the_other": lambda: asyncio.run(served(url, work, arguments.tokens, 1)),
            "together": lambda: asyncio.run(served(url, work, arguments.tokens, arguments.at_once)),
            "cached_prefix": lambda: cached.answer_all(pairs),
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        try:
            for number in range(arguments.rounds + 1):  # the first warms up
                for name, way in ways.items():
                    began = time.perf_counter()
                    way()
                    if number:
                        seconds[name].append(time.perf_counter() - began)
        finally:
            server.should_exit = True
            thread.join()
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    generated = arguments.requests * arguments.tokens
    return {
        "seconds": seconds,
        "tokens_per_second": {name: generated / value for name, value in middle.items()},
        "together_over_one_after_the_other": middle["one_after_the_other"] / middle["together"],
        "together_over_cached_prefix": middle["cached_prefix"] / middle["together"],
        "one_after_the_other_over_cached_prefix": middle["cached_prefix"] / middle["one_after_the_other"],
        "document_tokens": [len(ids) for ids, _ in cached.prefixes],
        "settings": {name: value for name, value in vars(arguments).items() if name != "json"},
        "provenance": provenance(),
    }


def main() -> None:
    """Measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    for name, value in {
        "requests": 32,
        "documents": 8,
        "tokens": 32,
        "at-once": 16,
        "batch-size": 8,
        "rounds": 3,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    result = measure(arguments := parser.parse_args())
    print(json.dumps({name: value for name, value in result.items() if name != "provenance"}, indent=2))
    if arguments.json:
        write_json(arguments.json, result)


if __name__ == "__main__":
    main()
