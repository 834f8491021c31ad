"""``/v1/chat/completions`` and ``/v1/completions``: a request becomes jobs for the engine."""

import asyncio
import secrets
import time
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from jinja2 import TemplateError
from starlette.exceptions import HTTPException

from diekae.data.formats import last_questions
from diekae.data.prompt import Prompter
from diekae.fingerprint import window
from diekae.serve.access import Tenant
from diekae.serve.job import Job, Refused, Sampling
from diekae.serve.limits import LEFT
from diekae.serve.reading import Prompted, Reading
from diekae.serve.responses import EventStream, Running, whole_response
from diekae.serve.schema import ChatRequest, CompletionRequest, Generation
from diekae.serve.state import Asker, State, state_of

router = APIRouter(prefix="/v1")
Result = TypeVar("Result")


@router.post("/chat/completions")
async def chat_completions(body: ChatRequest, request: Request, tenant: Asker) -> Any:
    """Answer the last turn of a chat."""
    state = state_of(request)
    prompted = await state.workers.run(_chat, state.prompter, [message.plain() for message in body.messages])
    limit = body.max_completion_tokens or body.max_tokens
    return await _answer(request, body, tenant, [prompted], limit, body.top_logprobs if body.logprobs else None)


@router.post("/completions")
async def completions(body: CompletionRequest, request: Request, tenant: Asker) -> Any:
    """Continue a text, or several."""
    state = state_of(request)
    texts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
    if len(texts) > 1 and body.knowledge is not None and body.knowledge.depends_on_prompt:
        raise Refused("knowledge.search and several documents need a single prompt; send one request for each")
    prompts = await state.workers.run(_plain, state.prompter, texts)
    return await _answer(request, body, tenant, prompts, body.max_tokens or 16, body.logprobs)


def _chat(prompter: Prompter, messages: list[dict[str, str]]) -> Prompted:
    try:
        anchor, rest = prompter.chat(messages)
        spoken = [turn for turn in messages if turn["role"] != "system"]
        asked = rest if len(spoken) == 1 else prompter.chat(last_questions(messages))[1]
    except (ValueError, TypeError, TemplateError) as error:
        raise Refused(str(error)) from error
    return Prompted(anchor, rest, asked, spoken[-1]["content"], spoken[:-1])


def _plain(prompter: Prompter, texts: Sequence[str]) -> list[Prompted]:
    anchor = prompter.anchor("plain")
    try:
        inputs = [prompter.input(text, "plain") for text in texts]
    except ValueError as error:
        raise Refused(str(error)) from error
    return [Prompted(anchor, rest, rest, text) for rest, text in zip(inputs, texts, strict=True)]


async def _answer(
    request: Request,
    body: Generation,
    tenant: Tenant,
    prompts: Sequence[Prompted],
    limit: int | None,
    top_logprobs: int | None,
) -> Any:
    """Find K, queue the answers, and respond."""
    state = state_of(request)
    for prompt in prompts:
        _room(state, prompt, 0)  # before anything is read
    deadline = time.perf_counter() + state.options.timeout
    reading = await _unless_left(request, _read(state, body, tenant, prompts[0]))
    running = Running(state, body, reading, deadline, prompts[0].question, len(prompts))
    running.jobs = _jobs(running, prompts, limit, top_logprobs)
    state.engine.submit(*running.jobs)
    if body.stream:
        return EventStream(running)
    try:
        return JSONResponse(await _unless_left(request, whole_response(running)))
    finally:
        running.finish()


async def _unless_left(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """Wait for work, which is cancelled when the client leaves."""
    task, left = asyncio.create_task(work), asyncio.create_task(_leaving(request))
    try:
        await asyncio.wait((task, left), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise HTTPException(LEFT, "the client has left")
        return task.result()
    finally:
        task.cancel()
        left.cancel()


async def _leaving(request: Request) -> None:
    """Return when the client has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _read(state: State, body: Generation, tenant: Tenant, prompt: Prompted) -> Reading | None:
    """Find and prepare K."""
    if body.knowledge is None:
        return None
    began = time.perf_counter()
    arguments = body.knowledge, tenant, prompt
    try:
        reading = await asyncio.wait_for(state.readers.run(state.reader.read, *arguments), state.options.timeout)
    except TimeoutError as error:
        raise HTTPException(504, f"the knowledge was not prepared within {state.options.timeout:g} s") from error
    state.metrics.observe("read", time.perf_counter() - began)
    return reading


def _jobs(running: Running, prompts: Sequence[Prompted], limit: int | None, top_logprobs: int | None) -> list[Job]:
    """Return a job for each answer; `Refused` if there are too many, or nothing is left of the decoder's window."""
    state, body = running.state, running.request
    prepared = running.reading.prepared if running.reading else None
    most, count = state.engine.options.queue_size, len(prompts) * body.n
    if count > most:
        raise Refused(f"the request asks for {count} answers; at most {most} are possible")
    seed = secrets.randbits(31) if body.seed is None else body.seed
    behind = prepared.token_count if prepared else 0  # several documents all end where x begins
    jobs = []
    for number in range(count):
        prompt = prompts[number // body.n]
        room = _room(state, prompt, behind)
        sampling = Sampling(
            max_new_tokens=min(limit or room, room),
            temperature=body.temperature,
            top_p=body.top_p,
            seed=seed + number,
            stop=tuple(body.stop or ()),
            top_logprobs=top_logprobs,
        )
        jobs.append(Job(prompt.anchor + prompt.rest, prepared, sampling, running.teller(number)))
    return jobs


def _room(state: State, prompt: Prompted, behind: int) -> int:
    """Return how many tokens an answer may have, after so many of knowledge; `Refused` if nothing is left."""
    size, length = window(state.model.decoder), len(prompt.anchor) + len(prompt.rest)
    room = min(size - length - behind, state.options.most_tokens)
    if room < 1:
        raise Refused(
            f"the prompt has {length} tokens, after {behind} of knowledge; nothing is left of the decoder's window of "
            f"{size}"
        )
    return room
