"""A limit on the size of requests, counted as they arrive, and the counting of requests."""

from __future__ import annotations

import json
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from diekae.serve.metrics import Metrics


class TooLarge(Exception):
    """A request's body is larger than it may be."""


class Limits:
    """ASGI middleware that refuses large bodies with 413, whether or not they say how long they are."""

    def __init__(self, app: ASGIApp, metrics: Metrics, most_body: int, most_file: int) -> None:
        """Wrap an application.

        Args:
            app: What is wrapped.
            metrics: Where requests are counted.
            most_body: Most bytes of a body.
            most_file: Most bytes of an uploaded file.
        """
        self.app, self.metrics, self.most_body, self.most_file = app, metrics, most_body, most_file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        # A file comes with a few lines around it.
        most = self.most_file + 65_536 if scope["path"] == "/v1/files" else self.most_body
        status, started, size = 500, False, 0

        async def counted_receive() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > most:
                raise TooLarge
            return message

        async def counted_send(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
            await send(message)

        try:
            if _announced(scope) > most:
                raise TooLarge
            await self.app(scope, counted_receive, counted_send)
        except TooLarge:
            if started:
                raise
            status = 413
            await _refuse(send, f"the request has more than {most} bytes")
        finally:
            route = scope.get("route")
            path = getattr(route, "path", "other")
            self.metrics.requests.labels(path, str(status)).inc()


def _announced(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0


async def _refuse(send: Send, text: str) -> None:
    body = json.dumps({"error": {"message": text, "type": "invalid_request_error", "param": None, "code": None}})
    headers: list[Any] = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": body.encode()})
