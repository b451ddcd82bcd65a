"""A plain HTTP client of the REST side: http.client over mutual TLS, or over none for a gateway."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import re
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from google.api import annotations_pb2
from google.protobuf import descriptor_pool, json_format
from google.protobuf.message import Message

from tests.harness.pki import client_context
from tests.harness.service import CALL_SECONDS, Service


@dataclass(frozen=True)
class Answer:
    """A response; names of headers in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as one JSON value."""
        return json.loads(self.body)

    @property
    def lines(self) -> list[Any]:
        """The body as JSON lines."""
        return [json.loads(line) for line in self.body.splitlines()]

    @property
    def violations(self) -> list[str]:
        """The fields that a BadRequest names."""
        details = {detail["@type"]: detail for detail in self.json["details"]}
        found = details["type.googleapis.com/google.rpc.BadRequest"]["fieldViolations"]
        return [violation["field"] for violation in found]


class Rest:
    """One user of a service."""

    def __init__(self, port: int, *, context: ssl.SSLContext | None, token: str = "") -> None:
        self.port = port
        self.context = context
        self.token = token

    def connect(self) -> http.client.HTTPConnection:
        """A connection."""
        if self.context is None:
            return http.client.HTTPConnection("127.0.0.1", self.port, timeout=CALL_SECONDS)
        return http.client.HTTPSConnection("localhost", self.port, timeout=CALL_SECONDS, context=self.context)

    def socket(self) -> ssl.SSLSocket:
        """A connection with nothing sent on it."""
        assert self.context is not None
        plain = socket.create_connection(("127.0.0.1", self.port), CALL_SECONDS)
        return self.context.wrap_socket(plain, server_hostname="localhost")

    @contextlib.contextmanager
    def open(self, method: str, path: str, body: Any = None, **headers: str) -> Iterator[http.client.HTTPResponse]:
        """A response whose body is still to be read. `body`: bytes, or a JSON value."""
        with contextlib.closing(self.connect()) as connection:
            connection.request(method, path, _encoded(body), self.headers(body, headers))
            with connection.getresponse() as response:
                yield response

    def headers(self, body: Any, headers: dict[str, str]) -> dict[str, str]:
        """The headers of a call; `_` in a name is `-`, and an empty value leaves the header out."""
        found = {"authorization": f"Bearer {self.token}"} if self.token else {}
        if body is not None:
            found["content-type"] = "application/json"
        found |= {name.replace("_", "-"): value for name, value in headers.items()}
        return {name: value for name, value in found.items() if value}

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """A call."""
        with self.open(method, path, body, **headers) as response:
            data = response.read()
        found = {name.lower(): value for name, value in response.getheaders()}
        if found.get("content-encoding") == "gzip":
            data = gzip.decompress(data)
        return Answer(response.status, found, data)

    def submit(self, *commands: str) -> str:
        """Submits a batch; its CorrelationID."""
        body = "".join(json.dumps({"command": command}) + "\n" for command in commands).encode()
        answer = self("POST", "/v1/batches", body, content_type="application/x-ndjson")
        assert answer.status == 200, answer.body
        found: str = answer.json["correlationId"]
        return found

    def wait(self, correlation_id: str) -> Any:
        """The batch, once it is final."""
        answer = self("GET", f"/v1/batches/{correlation_id}:wait")
        assert answer.status == 200, answer.body
        return answer.json


def rest(service: Service, user: str = "alice", *, login: bool = True) -> Rest:
    """A user of a service, logged in over REST."""
    found = Rest(service.rest_port, context=client_context(service.pki / "clients" / user))
    if login:
        answer = found("POST", "/v1/auth/login", {"username": user, "password": service.passwords[user]})
        assert answer.status == 200, answer.body
        found.token = answer.json["accessToken"]
    return found


def bindings(method: str, request: Message | None) -> list[tuple[str, str, bytes | None, str]]:
    """HTTP method, path, body and its type, for each binding of a method."""
    service, _, name = method.removeprefix("/").partition("/")
    found = descriptor_pool.Default().FindServiceByName(service).methods_by_name[name]
    rule = found.GetOptions().Extensions[annotations_pb2.http]
    return [_binding(one, request) for one in (rule, *rule.additional_bindings) if one.WhichOneof("pattern")]


def _binding(rule: Any, request: Message | None) -> tuple[str, str, bytes | None, str]:
    verb = rule.WhichOneof("pattern")
    values = {} if request is None else json_format.MessageToDict(request, preserving_proto_field_name=True)

    def value(variable: re.Match[str]) -> str:
        found = values.pop(variable[1], 0)
        return str(found[0] if isinstance(found, list) else found)

    path = re.sub(r"\{(\w+)\}", value, getattr(rule, verb))
    if not rule.body:
        return verb.upper(), f"{path}?{urlencode(values, doseq=True)}", None, ""
    if request is None:  # a stream, with nothing in it
        return verb.upper(), path, b"", "application/x-ndjson"
    return verb.upper(), path, json.dumps(values).encode(), "application/json"


@dataclass(frozen=True)
class Event:
    """A server-sent event."""

    name: str
    id: str | None
    data: Any


def events(response: http.client.HTTPResponse) -> Iterator[Event]:
    """The events of a response, as they come."""
    name, event_id, data = "message", None, ""
    for raw in response:
        line = raw.decode().rstrip("\n")
        kind, _, value = line.partition(": ")
        if kind == "event":
            name = value
        elif kind == "id":
            event_id = value
        elif kind == "data":
            data += value
        elif not line and data:
            yield Event(name, event_id, json.loads(data))
            name, event_id, data = "message", None, ""


def _encoded(body: Any) -> bytes | None:
    return body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
