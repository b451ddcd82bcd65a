"""What schemathesis is told beside /openapi.json (SCHEMATHESIS_HOOKS). Not a test, and imports nothing of ours."""

from __future__ import annotations

from typing import Any

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def lines(_context: Any, value: Any) -> bytes:
    """A body of lines is text."""
    return value if isinstance(value, bytes) else str(value).encode(errors="replace")


@schemathesis.hook
def map_body(_context: Any, body: Any) -> Any:
    """Made-up commands are accepted and started, and do nothing."""
    if isinstance(body, dict):
        if isinstance(body.get("command"), str) and body["command"]:
            body["command"] = f": '{body['command']}'".replace("\n", " ") if body["command"].isalnum() else "true"
        if isinstance(body.get("argv"), list) and body["argv"] and isinstance(body["argv"][0], str):
            body["argv"][0] = "true"
    return body


@schemathesis.hook
def map_case(_context: Any, case: Any) -> Any:
    """Every other batch is one that is accepted, so that there is something to go on from, by the links."""
    if case.operation.path == "/v1/job/schedule" and isinstance(case.body, dict) and len(str(case.body)) % 2:
        case.body = {"command": "true"}
        case.headers.pop("x-correlation-id", None)
    return case
