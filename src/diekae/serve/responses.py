"""A request's answers while they are generated, and OpenAI's responses from their events, whole and streamed."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from fastapi.responses import StreamingResponse
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from diekae.answering.confidence import Confidence
from diekae.answering.sources import attention_shares, attention_to_slots
from diekae.serve.engine import Busy
from diekae.serve.errors import error_json
from diekae.serve.job import HALF, Delta, End, Event, Job, Refused, TokenScore
from diekae.serve.reading import Reading
from diekae.serve.schema import ChatRequest, Generation
from diekae.serve.state import State

Result = TypeVar("Result")


@dataclass
class Running:
    """A request's answers while they are generated; belongs to the event loop that it is made in."""

    state: State
    request: Generation
    reading: Reading | None
    deadline: float
    """When the request is given up, by ``time.perf_counter``."""
    question: str = ""
    """What documents are searched with."""
    prompts: int = 1
    """Prompts in the request; each has as many answers as the others."""
    jobs: list[Job] = field(default_factory=list)
    """The answers, which tell :meth:`teller` of their events."""
    created: int = field(default_factory=lambda: int(time.time()))
    _id: str = field(default_factory=lambda: uuid.uuid4().hex)
    _events: asyncio.Queue[tuple[int, Event]] = field(default_factory=asyncio.Queue)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    _ended: int = 0
    _counted: bool = False

    def teller(self, number: int) -> Callable[[Event], None]:
        """Return what an answer's job notifies, in the engine's thread."""

        def tell(event: Event) -> None:
            with suppress(RuntimeError):  # the loop is closed: the server has stopped
                self._loop.call_soon_threadsafe(self._events.put_nowait, (number, event))

        return tell

    @property
    def chat(self) -> bool:
        """Tell whether a chat was asked for."""
        return isinstance(self.request, ChatRequest)

    def head(self, kind: str) -> dict[str, Any]:
        """Return the fields that every response and chunk begins with."""
        id = f"{'chatcmpl' if self.chat else 'cmpl'}-{self._id}"
        return {"id": id, "object": kind, "created": self.created, "model": self.state.name}

    def usage(self) -> dict[str, Any]:
        """Return what was read and generated; K's tokens count as cached ones: they were read before."""
        known = self.prompts * len(self.reading.prepared or ()) if self.reading else 0
        prompt = sum(len(job.prompt) for job in self.jobs[:: len(self.jobs) // self.prompts])
        generated = sum(len(job.generated) for job in self.jobs)
        return {
            "prompt_tokens": prompt + known,
            "completion_tokens": generated,
            "total_tokens": prompt + known + generated,
            "prompt_tokens_details": {"cached_tokens": known},
        }

    async def next(self) -> tuple[int, Delta | End] | None:
        """Return the number of an answer and its next event; None when all answers have ended.

        Raises:
            Refused: An answer cannot be given to this request.
            HTTPException: The engine failed or stopped, or the time is up.
        """
        if self._ended == len(self.jobs):
            return None
        try:
            left = max(0.0, self.deadline - time.perf_counter())
            number, event = await asyncio.wait_for(self._events.get(), left)
        except TimeoutError as error:
            raise HTTPException(504, f"no answer within {self.state.options.timeout:g} s") from error
        if isinstance(event, Refused):
            raise event
        if isinstance(event, BaseException):
            raise HTTPException(500, "the answer could not be generated") from event
        if isinstance(event, End):
            if event.reason == "cancelled":  # and somebody waits for it
                raise HTTPException(503, "the server stopped before the answer was complete")
            self._ended += 1
        return number, event

    def finish(self) -> None:
        """Cancel what nobody waits for, and count the answers once."""
        for job in self.jobs:
            job.cancel()
        if not self._counted:
            self._counted = True
            self.state.metrics.finished(self.jobs)


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
    if reading.passages:
        reading = replace(reading, confidence=await _evidence(running, _confidence, reading, reading.confidence))
    shares: Sequence[float | None] = ()
    if request.shares and reading.passages:
        shares = await _evidence(running, _shares, reading, [None] * len(reading.passages))
    return {"knowledge": reading.as_json(shares)}


async def _evidence(
    running: Running, find: Callable[[Running, Reading], Result], reading: Reading, unknown: Result
) -> Result:
    """Return what a worker finds out about the first answer; the answer is there and must not be lost for it."""
    try:
        return await running.state.workers.run(find, running, reading)
    except Busy:
        return unknown


def _confidence(running: Running, reading: Reading) -> float:
    """Return the probability that the passages answer the question, by the run of the decoder that read them."""
    job, model = running.jobs[0], running.state.model
    assert job.prepared is not None  # the passages, and the edits that apply
    confidence = Confidence(model, running.question, reading.passages, format="chat" if running.chat else "plain")
    confidence.read(torch.tensor([job.prompt], device=model.device), job.prepared)
    return confidence.value


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
