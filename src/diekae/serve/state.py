"""What the routes of one server share."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, HTTPException, Request

from diekae.data.prompt import Prompter
from diekae.edit.edits import Edits
from diekae.model import DiekaeModel
from diekae.serve.access import Tenant
from diekae.serve.engine import Engine
from diekae.serve.intake import Intake
from diekae.serve.metrics import Metrics
from diekae.serve.options import ServerOptions
from diekae.serve.reading import KnowledgeReader
from diekae.serve.threads import Workers


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
    """Return who asks, if the tenant may do everything.

    Raises:
        HTTPException: The key is not enough (403).
    """
    tenant = await tenant_of(request)
    if not tenant.everything:
        raise HTTPException(403, "this key may not do that; it takes a key of the tenant *")
    return tenant


Asker = Annotated[Tenant, Depends(tenant_of)]
"""Argument of a route for everyone who has a key."""
Owner = Annotated[Tenant, Depends(owner_of)]
"""Argument of a route for tenants who may do everything."""
