"""From the events of answers to OpenAI's responses, whole and streamed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import torch
from fastapi.responses import StreamingResponse
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from diekae.answering.sources import attention_shares, attention_to_slots
from diekae.serve.engine import Busy
from diekae.serve.errors import error_json
from diekae.serve.job import HALF, Delta, End, Refused, TokenScore
from diekae.serve.reading import Reading
from diekae.serve.running import Running


async def whole_response(running: Running) -> dict[str, Any]:
    """Return the whole response, when all answers have ended."""
    texts = [""] * len(running.jobs)
    reasons: list[str | None] = [None] * len(running.jobs)
    deltas: list[list[Delta]] = [[] for _ in running.jobs]
    while (event := await running.next()) is not None:
        number, step = event
        if isinstance(step, End):
            reasons[number] = step.reason
        else:
            texts[number] += step.text
            deltas[number].append(step)
    choices = []
    for number, text in enumerate(texts):
        body = {"message": {"role": "assistant", "content": text}} if running.chat else {"text": text}
        scores = _logprobs(running, deltas[number])
        choices.append({"index": number, **body, "logprobs": scores, "finish_reason": reasons[number]})
    head = running.head("chat.completion" if running.chat else "text_completion")
    return {**head, "choices": choices, "usage": running.usage(), **await _knowledge(running)}


class EventStream(StreamingResponse):
    """A streamed response; however it ends, its answers end too."""

    def __init__(self, running: Running) -> None:
        """Stream the events of some answers."""
        super().__init__(_chunks(running), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
        self.running = running

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.running.finish()


async def _chunks(running: Running) -> AsyncIterator[str]:
    """Yield server-sent events."""
    head = running.head("chat.completion.chunk" if running.chat else "text_completion")
    options = running.request.stream_options
    usage = {"usage": None} if options and options.include_usage else {}

    def chunk(choices: list[dict[str, Any]], **more: Any) -> str:
        return _event({**head, "choices": choices, **usage, **more})

    try:
        if running.chat:
            role = {"role": "assistant", "content": ""}
            yield chunk([{"index": n, "delta": role, "finish_reason": None} for n in range(len(running.jobs))])
        while (event := await running.next()) is not None:
            yield chunk([_part(running, *event)])
        if knowledge := await _knowledge(running):
            yield chunk([], **knowledge)
        if usage:
            yield chunk([], usage=running.usage())
        yield "data: [DONE]\n\n"
    except HTTPException as error:
        yield _event(error_json(error.status_code, error.detail))
    except Refused as error:
        yield _event(error_json(400, str(error)))


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


def _part(running: Running, number: int, event: Delta | End) -> dict[str, Any]:
    """Return the choice of a chunk."""
    if isinstance(event, End):
        body: dict[str, Any] = {"delta": {}} if running.chat else {"text": ""}
        return {"index": number, **body, "logprobs": None, "finish_reason": event.reason}
    body = {"delta": {"content": event.text}} if running.chat else {"text": event.text}
    return {"index": number, **body, "logprobs": _logprobs(running, [event]), "finish_reason": None}


def _logprobs(running: Running, deltas: Sequence[Delta]) -> dict[str, Any] | None:
    """Return log-probabilities in the shape of the endpoint; None if they were not asked for."""
    if running.jobs[0].sampling.top_logprobs is None:
        return None
    scored = [(delta, delta.score) for delta in deltas if delta.score is not None]
    if running.chat:
        tops = [[_score(other) for other in delta.alternatives] for delta, _ in scored]
        return {
            "content": [{**_score(score), "top_logprobs": top} for (_, score), top in zip(scored, tops, strict=True)]
        }
    return {
        "tokens": [score.token for _, score in scored],
        "token_logprobs": [score.logprob for _, score in scored],
        "top_logprobs": [{other.token: other.logprob for other in delta.alternatives} for delta, _ in scored],
        "text_offset": [delta.offset for delta, _ in scored],
    }


def _score(score: TokenScore) -> dict[str, Any]:
    # Of half a character the text does not tell the bytes.
    return {**score._asdict(), "bytes": None if HALF in score.token else list(score.token.encode())}


async def _knowledge(running: Running) -> dict[str, Any]:
    """Return the field that says what was read, if anything was asked for."""
    request, reading = running.request.knowledge, running.reading
    if request is None or reading is None:
        return {}
    shares: Sequence[float | None] = ()
    if request.shares and reading.passages:
        try:
            shares = await running.state.workers.run(_shares, running, reading)
        except Busy:  # the answer is there, and must not be lost for its shares
            shares = [None] * len(reading.passages)
    return {"knowledge": reading.as_json(shares)}


def _shares(running: Running, reading: Reading) -> list[float | None]:
    """Return the share of attention that the first answer gave to each passage; unknown if the document is deleted."""
    job, model = running.jobs[0], running.state.model
    assert reading.prepared is not None and running.state.reader.store is not None
    ids = torch.tensor([[*job.prompt, *job.generated]], device=model.device)
    try:
        given = attention_to_slots(model, ids, len(job.prompt), reading.prepared)
        return attention_shares(model, running.state.reader.store, reading.passages, given)
    except ValueError:
        return [None] * len(reading.passages)
