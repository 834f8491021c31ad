"""Requests made at random from the server's own OpenAPI schema: whatever they hold, the server does not fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from served import running_server

schemathesis = pytest.importorskip("schemathesis")
hypothesis = pytest.importorskip("hypothesis")

EXAMPLES = 12
"""Of each route."""


def test_no_request_makes_the_server_fail(tmp_path: Path) -> None:
    from hypothesis import HealthCheck, given, settings

    with running_server(store=tmp_path / "store", edits=tmp_path / "edits") as server:
        schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
        with httpx.Client(base_url=server.url) as client:
            client.post("/v1/files", files={"file": ("a.txt", b"The tower is tall.")})
        seen: set[str] = set()
        for operation in schema.get_all_operations():
            wanted = operation.ok()
            seen.add(f"{wanted.method.upper()} {wanted.path}")

            @given(case=wanted.as_strategy())
            @settings(
                max_examples=EXAMPLES, deadline=None, database=None, derandomize=True,
                suppress_health_check=list(HealthCheck),
            )  # fmt: skip
            def check(case: Any) -> None:
                if isinstance(case.body, dict) and "messages" in case.body:
                    case.body["max_tokens"] = 2
                response = case.call(timeout=30)
                assert response.status_code < 500, (response.status_code, response.text, case.as_curl_command())

            check()
        assert {"POST /v1/chat/completions", "POST /v1/files", "DELETE /v1/edits/{id}"} <= seen
        assert httpx.get(f"{server.url}/health").json() == {"status": "ok"}
