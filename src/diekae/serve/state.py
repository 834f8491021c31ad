"""What the routes of one server share: the model, its queues, threads for work that would block, and who asks."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

from fastapi import Depends, HTTPException, Request

from diekae.data.prompt import Prompter
from diekae.edit.edits import Edits
from diekae.model import DiekaeModel
from diekae.serve.access import Tenant
from diekae.serve.engine import Busy, Engine
from diekae.serve.intake import Intake
from diekae.serve.metrics import Metrics
from diekae.serve.options import ServerOptions
from diekae.serve.reading import KnowledgeReader

Result = TypeVar("Result")
THREADS = 4
"""Threads of one kind."""


class Workers:
    """A fixed number of threads with a bounded queue."""

    def __init__(self, name: str, most: int) -> None:
        """Make threads when they are needed. At most ``most`` calls wait or run; more are refused."""
        self.most = most
        self._pool = ThreadPoolExecutor(THREADS, f"diekae-{name}")
        self._lock, self._pending = threading.Lock(), 0

    async def run(self, function: Callable[..., Result], *args: Any) -> Result:
        """Call a function in a thread, or raise `Busy`; it is dropped if the caller is cancelled before it begins."""
        with self._lock:
            if self._pending >= self.most:
                raise Busy(f"{self._pending} requests are being prepared already")
            self._pending += 1
        future = self._pool.submit(function, *args)
        future.add_done_callback(self._done)
        return await asyncio.wrap_future(future)

    def stop(self) -> None:
        """Drop the calls that have not begun, and wait for the others."""
        self._pool.shutdown(cancel_futures=True)

    def _done(self, _: Future[Any]) -> None:
        with self._lock:
            self._pending -= 1


@dataclass
class State:
    """One server's decoder, documents and queues."""

    model: DiekaeModel
    name: str
    """The model's name in responses."""
    engine: Engine
    reader: KnowledgeReader
    metrics: Metrics
    workers: Workers
    """Threads for short work, as tokenizing."""
    readers: Workers
    """Threads that find and prepare knowledge, which may take long."""
    options: ServerOptions
    created: int = field(default_factory=lambda: int(time.time()))
    """When the server started, in seconds since 1970."""
    intake: Intake | None = None
    """Uploads, with their library and knowledge store; None serves without documents."""
    edits: Edits | None = None

    @property
    def prompter(self) -> Prompter:
        """Return what turns texts into tokens."""
        return self.model.need_prompter()


def state_of(request: Request) -> State:
    """Return the server's state."""
    state: State = request.app.state.diekae
    return state


async def tenant_of(request: Request) -> Tenant:
    """Return who asks, as :class:`~diekae.serve.limits.Limits` found; asynchronous, to need no thread."""
    tenant: Tenant = request.state.tenant
    return tenant


async def owner_of(request: Request) -> Tenant:
    """Return who asks, if the tenant may do everything (403)."""
    tenant = await tenant_of(request)
    if not tenant.everything:
        raise HTTPException(403, "this key may not do that; it takes a key of the tenant *")
    return tenant


Asker = Annotated[Tenant, Depends(tenant_of)]
"""Argument of a route for everyone who has a key."""
Owner = Annotated[Tenant, Depends(owner_of)]
"""Argument of a route for tenants who may do everything."""
