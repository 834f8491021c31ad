"""``/v1/chat/completions`` and ``/v1/completions``: a request becomes jobs, and their events become OpenAI's shapes."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool

from diekae.answering.answer import attention_given, shares_of
from diekae.fingerprint import window
from diekae.serve.access import Tenant
from diekae.serve.engine import Busy
from diekae.serve.job import Delta, End, Event, Job, Sampling, TokenScore
from diekae.serve.reading import Reading
from diekae.serve.schema import ChatRequest, CompletionRequest, Generation
from diekae.serve.state import State, state_of, tenant_of

router = APIRouter(prefix="/v1")
RETRY_AFTER = "1"
"""Seconds after which a refused request may come again."""


@dataclass
class Prompted:
    """A request in tokens."""

    anchor: tuple[int, ...]
    """Tokens that K stands behind."""
    rest: tuple[int, ...]
    """Tokens of x behind the anchor."""
    question: str
    """What documents are searched with."""
    history: Sequence[dict[str, str]] = ()
    """Turns before the question."""


@dataclass
class Running:
    """A request's answers while they are generated."""

    state: State
    request: Generation
    reading: Reading | None
    jobs: list[Job]
    events: asyncio.Queue[tuple[int, Event]]
    kind: str
    """``chat.completion`` or ``text_completion``."""
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))
    began: float = field(default_factory=time.perf_counter)

    @property
    def chat(self) -> bool:
        """Tell whether a chat was asked for."""
        return self.kind.startswith("chat")

    def cancel(self) -> None:
        """Stop what nobody waits for."""
        for job in self.jobs:
            job.cancel()

    def head(self, kind: str | None = None) -> dict[str, Any]:
        """Return the fields that every response and chunk begins with."""
        return {"id": self.id, "object": kind or self.kind, "created": self.created, "model": self.state.name}

    def usage(self) -> dict[str, Any]:
        """Return what was read and generated; K's tokens count as cached ones: they were read before."""
        known = len(self.reading.prepared or ()) if self.reading else 0
        prompt = sum(len(job.prompt) for job in self.jobs[:1])
        generated = sum(len(job.generated) for job in self.jobs)
        return {
            "prompt_tokens": prompt + known,
            "completion_tokens": generated,
            "total_tokens": prompt + known + generated,
            "prompt_tokens_details": {"cached_tokens": known},
        }


@router.post("/chat/completions")
async def chat_completions(body: ChatRequest, request: Request, tenant: Tenant = Depends(tenant_of)) -> Any:
    """Answer the last turn of a chat."""
    state = state_of(request)
    messages = [message.plain() for message in body.messages]
    anchor, rest = _checked(lambda: state.prompter.chat(messages))
    spoken = [turn for turn in messages if turn["role"] != "system"]
    prompted = Prompted(anchor, rest, spoken[-1]["content"], spoken[:-1])
    limit = body.max_completion_tokens or body.max_tokens
    running = await _start(state, body, tenant, [prompted], limit, body.top_logprobs if body.logprobs else None)
    return await _respond(running, request)


@router.post("/completions")
async def completions(body: CompletionRequest, request: Request, tenant: Tenant = Depends(tenant_of)) -> Any:
    """Continue a text, or several."""
    state = state_of(request)
    prompter = state.prompter
    texts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
    anchor = prompter.anchor("plain")
    prompts = [Prompted(anchor, _checked(lambda text=text: prompter.input(text, "plain")), text) for text in texts]
    running = await _start(state, body, tenant, prompts, body.max_tokens or 16, body.logprobs)
    return await _respond(running, request)


def _checked(tokens: Any) -> Any:
    try:
        return tokens()
    except (ValueError, TypeError) as error:
        raise HTTPException(400, str(error)) from error


async def _start(
    state: State,
    body: Generation,
    tenant: Tenant,
    prompts: Sequence[Prompted],
    limit: int | None,
    top_logprobs: int | None,
) -> Running:
    """Find and prepare K, and queue the answers."""
    body.check_extra()
    reading = None
    if body.knowledge is not None:
        first = prompts[0]
        reading = await run_in_threadpool(
            state.reader.read, body.knowledge, tenant, first.anchor, first.question, first.history
        )
    prepared = reading.prepared if reading else None
    loop, events = asyncio.get_running_loop(), asyncio.Queue[tuple[int, Event]]()
    seed = secrets.randbits(31) if body.seed is None else body.seed
    jobs = []
    for index in range(len(prompts) * body.n):
        prompt = prompts[index // body.n]
        ids = prompt.anchor + prompt.rest
        room = min(window(state.model.decoder) - len(ids) - len(prepared or ()), state.options.most_tokens)
        if room < 1:
            raise HTTPException(
                400, f"the prompt has {len(ids)} tokens and the knowledge {len(prepared or ())}; nothing is left of "
                f"the decoder's window of {window(state.model.decoder)}"
            )  # fmt: skip
        sampling = Sampling(
            min(limit or room, room), body.temperature, body.top_p, seed + index, tuple(body.stop or ()), top_logprobs
        )
        jobs.append(Job(ids, prepared, sampling, _teller(loop, events, index)))
    try:
        state.engine.submit(*jobs)
    except Busy as error:
        raise HTTPException(429, f"{error}; try again", {"Retry-After": RETRY_AFTER}) from error
    state.metrics.accepted(len(reading.prepared or ()) if reading else 0)
    kind = "chat.completion" if isinstance(body, ChatRequest) else "text_completion"
    return Running(state, body, reading, jobs, events, kind)


def _teller(loop: asyncio.AbstractEventLoop, events: asyncio.Queue[tuple[int, Event]], index: int) -> Any:
    def tell(event: Event) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(events.put_nowait, (index, event))

    return tell


async def _respond(running: Running, request: Request) -> Any:
    if running.request.stream:
        return StreamingResponse(_stream(running), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
    watcher = asyncio.create_task(_watch(running, request))
    try:
        return JSONResponse(await _whole(running))
    finally:
        watcher.cancel()
        running.cancel()


async def _watch(running: Running, request: Request) -> None:
    """Cancel the answers when the client has left."""
    while not await request.is_disconnected():
        await asyncio.sleep(0.25)
    running.cancel()


async def _events(running: Running) -> AsyncIterator[tuple[int, Delta | End]]:
    """Yield events until every answer has ended.

    Raises:
        HTTPException: The engine failed, or the time is up.
    """
    left = len(running.jobs)
    try:
        async with asyncio.timeout(running.state.options.timeout):
            while left:
                index, event = await running.events.get()
                if isinstance(event, BaseException):
                    raise HTTPException(500, "the answer could not be generated") from event
                left -= isinstance(event, End)
                yield index, event
    except TimeoutError as error:
        raise HTTPException(504, f"no answer within {running.state.options.timeout:g} s") from error
    finally:
        running.cancel()
        running.state.metrics.finished(running.jobs, time.perf_counter() - running.began)


async def _whole(running: Running) -> dict[str, Any]:
    """Return the whole response."""
    texts = [""] * len(running.jobs)
    reasons = [""] * len(running.jobs)
    scores: list[list[Delta]] = [[] for _ in running.jobs]
    async for index, event in _events(running):
        if isinstance(event, End):
            reasons[index] = event.reason
        else:
            texts[index] += event.text
            scores[index].append(event)
    choices = [_choice(running, index, text, scores[index], reasons[index]) for index, text in enumerate(texts)]
    response = {**running.head(), "choices": choices, "usage": running.usage()}
    return response | await _knowledge(running)


def _choice(running: Running, index: int, text: str, scores: Sequence[Delta], reason: str) -> dict[str, Any]:
    said: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if running.chat else {"text": text}
    return {"index": index, **said, "logprobs": _logprobs(running, scores), "finish_reason": reason}


async def _knowledge(running: Running) -> dict[str, Any]:
    """Return the field that says what was read, if anything was asked for."""
    request, reading = running.request.knowledge, running.reading
    if request is None or reading is None:
        return {}
    shares: Sequence[float | None] = ()
    if request.shares and reading.prepared is not None and reading.passages:
        shares = await run_in_threadpool(_shares, running, reading)
    return {"knowledge": reading.as_json(shares)}


def _shares(running: Running, reading: Reading) -> list[float | None]:
    """Return the share of attention that the first answer gave to each passage."""
    import torch

    job, model = running.jobs[0], running.state.model
    assert reading.prepared is not None and running.state.store is not None
    ids = torch.tensor([[*job.prompt, *job.generated]], device=model.device)
    given = attention_given(model, ids, len(job.prompt), reading.prepared)
    return shares_of(model, running.state.store, reading.passages, given)


async def _stream(running: Running) -> AsyncIterator[str]:
    """Yield server-sent events."""
    kind = "chat.completion.chunk" if running.chat else "text_completion"
    options = running.request.stream_options
    empty = {"usage": None} if options and options.include_usage else {}

    def chunk(choices: list[dict[str, Any]], **more: Any) -> str:
        return (
            f"data: {json.dumps({**running.head(kind), 'choices': choices, **empty, **more}, ensure_ascii=False)}\n\n"
        )

    def part(index: int, text: str | None, delta: Delta | None, reason: str | None) -> dict[str, Any]:
        said: dict[str, Any] = {"text": text or ""}
        if running.chat:
            said = {"delta": {} if text is None else {"content": text}}
        scores = _logprobs(running, [delta] if delta else [])
        return {"index": index, **said, "logprobs": scores, "finish_reason": reason}

    try:
        if running.chat:
            roles = {"role": "assistant", "content": ""}
            yield chunk([{"index": n, "delta": roles, "finish_reason": None} for n in range(len(running.jobs))])
        async for index, event in _events(running):
            if isinstance(event, End):
                yield chunk([part(index, None, None, event.reason)])
            elif event.text or event.score:
                yield chunk([part(index, event.text, event, None)])
        knowledge = await _knowledge(running)
        if knowledge:
            yield chunk([], **knowledge)
        if empty:
            yield chunk([], usage=running.usage())
        yield "data: [DONE]\n\n"
    except HTTPException as error:
        yield f"data: {json.dumps({'error': {'message': error.detail, 'type': 'server_error', 'code': None}})}\n\n"
    finally:
        running.cancel()


def _logprobs(running: Running, scores: Sequence[Delta]) -> dict[str, Any] | None:
    """Return log-probabilities in the shape of the endpoint."""
    kept = [delta for delta in scores if delta.score is not None]
    if running.jobs[0].sampling.top_logprobs is None or not kept:
        return None
    if running.chat:
        return {"content": [{**_score(d.score), "top_logprobs": [_score(t) for t in d.alternatives]} for d in kept]}
    return {
        "tokens": [delta.score.token for delta in kept if delta.score],
        "token_logprobs": [delta.score.logprob for delta in kept if delta.score],
        "top_logprobs": [{score.token: score.logprob for score in delta.alternatives} for delta in kept],
        "text_offset": [],
    }


def _score(score: TokenScore | None) -> dict[str, Any]:
    assert score is not None
    return {"token": score.token, "logprob": score.logprob, "bytes": list(score.token.encode())}
