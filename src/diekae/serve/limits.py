"""What is checked before a request is read: key, host, origin and size. Requests are counted here too."""

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from diekae.serve.access import Keys, Tenant, is_loopback
from diekae.serve.errors import error_response
from diekae.serve.metrics import Metrics
from diekae.serve.options import ServerOptions

AROUND_FILE = 65_536
"""Bytes that may stand around the file in an upload."""
OPEN_PATHS = frozenset({"/", "/page.js", "/page.css", "/favicon.ico", "/health", "/openapi.json"})
"""Paths that need no key."""
LEFT = 499
"""Status, in the metrics alone, of a request whose client left before the response began."""


class Limits:
    """ASGI middleware that refuses what need not be read."""

    def __init__(self, app: ASGIApp, metrics: Metrics, keys: Keys, options: ServerOptions) -> None:
        """Wrap an application; requests are counted in the metrics."""
        self.app, self.metrics, self.keys, self.options = app, metrics, keys, options

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        status = LEFT

        async def counted_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        headers = Headers(scope=scope)
        app: ASGIApp = self.app
        tenant = self.keys.tenant(headers.get("authorization"))
        scope.setdefault("state", {})["tenant"] = tenant
        if (refusal := self._refusal(scope["path"], headers, tenant)) is not None:
            app = error_response(*refusal)
        else:
            receive = self._limited(scope["path"], headers, receive)
        try:
            await app(scope, receive, counted_send)
        except Exception:
            status = 500
            raise
        finally:
            path = getattr(scope.get("route"), "path", "other")
            self.metrics.requests.labels(path, str(status)).inc()

    def _refusal(self, path: str, headers: Headers, tenant: Tenant | None) -> tuple[int, str] | None:
        """Return status and text if a request is refused by its headers."""
        if tenant is None and path not in OPEN_PATHS:
            return 401, "the API key is missing or wrong; send it as `Authorization: Bearer KEY`"
        if self.keys:
            return None
        # Without keys, pages of other sites must not use the server through a browser of this machine: neither under
        # a name of theirs that leads here, nor by a form that is sent here.
        host, origin = headers.get("host", ""), headers.get("origin")
        if not is_loopback(_name(f"//{host}")):
            return 403, f"a server without keys answers to localhost only, not to {host!r}"
        if origin is not None and urlsplit(origin).netloc != host:
            return 403, f"a server without keys takes no requests from pages of {origin!r}"
        return None

    def _limited(self, path: str, headers: Headers, receive: Receive) -> Receive:
        """Return a receiver that refuses more bytes than a request may have, announced or not."""
        most = self.options.most_file + AROUND_FILE if path == "/v1/files" else self.options.most_body
        announced = headers.get("content-length", "")
        size = 0

        async def limited() -> Message:
            nonlocal size
            # FastAPI lets an HTTPException pass that is raised while it reads a body.
            refusal = HTTPException(413, f"the request has more than {most} bytes", {"Connection": "close"})
            if announced.isdecimal() and int(announced[:20]) > most:
                raise refusal
            message = await receive()
            size += len(message.get("body", b""))
            if size > most:
                raise refusal
            return message

        return limited


def _name(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
