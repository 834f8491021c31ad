"""Errors in the shape of OpenAI's API."""

from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from diekae.serve.engine import Busy
from diekae.serve.job import Refused
from diekae.serve.reading import UnknownDocument

RETRY_AFTER = 1
"""Seconds after which a refused request may come again."""
_KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def error_response(
    status: int, text: str, headers: Mapping[str, str] | None = None, param: str | None = None
) -> JSONResponse:
    """Return an error response."""
    return JSONResponse(error_json(status, text, param), status, headers=headers)


def error_json(status: int, text: str, param: str | None = None) -> dict[str, object]:
    """Return the body of an error response."""
    kind = _KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")
    text = text.encode("utf-8", "backslashreplace").decode()  # a message may quote half a surrogate pair
    return {"error": {"message": text, "type": kind, "param": param, "code": None}}


def add_errors(app: FastAPI) -> None:
    """Answer exceptions with error responses."""

    @app.exception_handler(HTTPException)
    async def http_error(_request: Request, error: HTTPException) -> JSONResponse:
        return error_response(error.status_code, str(error.detail), error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path"))
        return error_response(400, f"{field}: {first['msg']}" if field else str(first["msg"]), param=field or None)

    @app.exception_handler(Refused)
    async def refused(_request: Request, error: Refused) -> JSONResponse:
        return error_response(404 if isinstance(error, UnknownDocument) else 400, str(error))

    @app.exception_handler(Busy)
    async def busy(_request: Request, error: Busy) -> JSONResponse:
        return error_response(429, f"{error}; try again", {"Retry-After": str(RETRY_AFTER)})

    @app.exception_handler(Exception)
    async def failed(_request: Request, _error: Exception) -> JSONResponse:
        return error_response(500, "the server failed; its log says why")
