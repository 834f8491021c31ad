"""A request's answers while they are generated: their events, their cost, and how they end."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from starlette.exceptions import HTTPException

from diekae.serve.job import Delta, End, Event, Job, Refused
from diekae.serve.reading import Reading
from diekae.serve.schema import ChatRequest, Generation
from diekae.serve.state import State


@dataclass
class Running:
    """A request's answers while they are generated; belongs to the event loop that it is made in."""

    state: State
    request: Generation
    reading: Reading | None
    deadline: float
    """When the request is given up, by ``time.perf_counter``."""
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
