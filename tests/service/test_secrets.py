"""Tokens and passwords, however malformed what they come in: no line of the log, and nothing printed, has them."""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import Iterator
from contextlib import suppress

import pytest

from jobworker.v1 import auth_pb2, query_pb2
from tests.harness import http2
from tests.harness.rest import Rest, rest
from tests.harness.service import Service, running
from tests.harness.wait import until

SECRET = "pl4nt3dS3cret"
TOKEN = SECRET.encode()
UNKNOWN = "01900000-0000-7000-8000-000000000000"
GET = "/jobworker.v1.JobQueryService/GetBatch"
LIST = "/jobworker.v1.JobQueryService/ListBatches"
LOGIN = "/jobworker.v1.AuthService/Login"

# What is around a token, or in it: white space of all kinds, what is not ASCII and no UTF-8, controls, other schemes.
AROUND = [
    b"%s",
    b"Bearer %s",
    b"Bearer %s\xa0",
    b"Bearer \xa0%s",
    b"Bearer\xa0%s",
    b"Bearer %s\xc2\xa0",
    b"Bearer %s\xc3",
    b"Bearer %s\xff\xfe",
    b"Bearer \xed\xa0\x80%s",
    b"Bearer %s\xe2\x80\xa8x",
    b"Bearer %s\x00",
    b"Bearer %s\x01\x1b[31m",
    b"Bearer %s\x7f",
    b"Bearer %s\tx",
    b"Bearer %s\r\nx: y",
    b"Bearer %s\nx",
    b'Bearer "%s"',
    b"Bearer %s, Bearer %s2",
    b"Bearer %s.%s.%s",
    b"Bearer eyJhbGciOiJFUzI1NiJ9.%s.\xe4",
    b"Bearer %s" + b"x" * 9000,
    b"Basic %s",
    b"Basic dXNlcjo%s\xe4",
    b'Digest username="%s',
    b"Bearer=%s",
    b"%s\xe4 Bearer x",
]
SHAPES = [shape.replace(b"%s", TOKEN) for shape in AROUND]
# A JWT whose parts are not JSON, no base64, or of other types, with the secret in each.
_PARTS = [
    f'{{"alg":"ES256","kid":"{SECRET}"}}', f'{{"alg":"{SECRET}"}}', f'{{"alg":"ES256","crit":["{SECRET}"]}}',
    f'{{"alg":"ES256","b64":false,"{SECRET}":1}}', f'["{SECRET}"]', f'"{SECRET}"', f"{SECRET}\udcff", f'{{"{SECRET}',
    f'{{"alg":["{SECRET}"]}}', f'{{"alg":"ES256","kid":["{SECRET}"]}}', f'{{"alg":"none","typ":"{SECRET}"}}',
]  # fmt: skip
_BASE64 = [base64.urlsafe_b64encode(part.encode("utf-8", "surrogateescape")).rstrip(b"=") for part in _PARTS]
SHAPES += [b"Bearer " + b".".join((part, other, TOKEN)) for part in _BASE64 for other in (_BASE64[0], _BASE64[-1])]
NAMES = [b"authorization", b"x-correlation-id", b"traceparent", b"tracestate", b"grpc-timeout", b"grpc-encoding",
         b"authorization-bin", b"x-" + TOKEN, b"cookie", b"proxy-authorization", b"user-agent", b"content-type",
         b"grpc-accept-encoding", b"grpc-trace-bin", b"grpc-previous-rpc-attempts", b"Authorization"]  # fmt: skip


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(tmp_path_factory.mktemp("secrets") / "service", LOG_LEVEL="debug") as service:
        yield service


@pytest.fixture(autouse=True)
def told_nothing(own: Service) -> Iterator[None]:
    """After each test the service works, and neither its log nor its output has the secret in any of its forms."""
    server = own.child("server")
    yield
    api = own.api("bob")
    batch = api.submit("true")
    api.wait(batch)
    log = own.folder / "logs" / "service.jsonl"
    until(lambda: batch in log.read_text(), "the last line is written")
    forms = [SECRET, SECRET[::-1], *(base64.b64encode(b"x" * n + TOKEN).decode()[4:-4] for n in range(3))]
    for text in (log.read_text(), own.output()):
        lines = [line for line in text.splitlines() if any(form in line for form in forms)]
        assert not lines, lines[:3]
    assert own.child("server") == server


def test_malformed_metadata_over_grpc_is_in_no_line(own: Service) -> None:
    message = query_pb2.GetBatchRequest(correlation_id=UNKNOWN).SerializeToString()
    for shape in SHAPES:
        http2.call(own, "alice", GET, [(b"authorization", shape)], message)
    http2.call(own, "alice", GET, [(b"authorization", shape) for shape in SHAPES[:4]], message)
    for name in NAMES:
        for shape in SHAPES[:8]:
            http2.call(own, "alice", GET, [(name, shape)], message)
    for method in (LOGIN, LIST, "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch", f"/no/{SECRET}"):
        http2.call(own, "alice", method, [(b"authorization", SHAPES[2]), (b"x-correlation-id", SHAPES[2])], message)


def test_malformed_headers_over_rest_are_in_no_line(own: Service) -> None:
    user = rest(own)
    for shape in SHAPES:
        raw(user, b"GET /v1/batches HTTP/1.1\r\nhost: x\r\nauthorization: " + shape)
    for name in NAMES:
        for shape in SHAPES[:8]:
            raw(user, b"GET /v1/batches HTTP/1.1\r\nhost: x\r\n" + name + b": " + shape)
    for line in (
        b"GET /v1/batches?user=%s\xff HTTP/1.1",
        b"GET /v1/batches/%s HTTP/1.1",
        b"GET /v1/batches/\xff%s HTTP/1.1",
        b"%s /v1/batches HTTP/1.1",
        b"GET %s HTTP/9",
        b"Bearer %s\xa0",
        b"POST /v1/auth/login HTTP/1.1\r\ncontent-length: %s",
        b"POST /v1/auth/login HTTP/1.1\r\ntransfer-encoding: %s",
        b"POST /v1/auth/login HTTP/1.1\r\ncontent-encoding: %s",
        b"POST /v1/auth/login HTTP/1.1\r\ncontent-type: %s",
        b"GET /v1/batches/x/jobs/0/logs HTTP/1.1\r\nlast-event-id: %s",
    ):
        raw(user, line.replace(b"%s", TOKEN) + b"\r\nhost: x")


def raw(user: Rest, head: bytes) -> bytes:
    """What comes back for a request of these bytes."""
    found = b""
    with user.socket() as connection, suppress(ConnectionError, ssl.SSLError):
        connection.sendall(head + b"\r\nconnection: close\r\n\r\n")
        while piece := connection.recv(65536):
            found += piece
    return found


def test_malformed_logins_are_in_no_line(own: Service) -> None:
    user = rest(own, "vic", login=False)
    password = own.passwords["vic"]
    for body in (
        f'{{"username":"vic","password":"{SECRET}\\ud800"}}',
        f'{{"username":"{SECRET}\\ud800","password":"x"}}',
        f'{{"username":"vic","password":"{SECRET}\\u0000"}}',
        f'{{"username":"vic","password":"{SECRET}',
        f'{{"username":"vic","password":["{SECRET}"]}}',
        f'{{"username":"vic","{SECRET}":"x"}}',
        f'{{"username":"vic","password":"{SECRET}","password":"{SECRET}"}}',
        f'"{SECRET}"',
        json.dumps({"username": "vic", "password": SECRET * 500}),
        json.dumps({"username": "vic", "password": SECRET * 2000}),
        json.dumps({"username": SECRET * 100, "password": password}),
        json.dumps({"username": f"{SECRET}\xa0é\u2028", "password": password}),
    ):
        raw_body = body.encode()
        answer = user("POST", "/v1/auth/login", raw_body)
        assert answer.status in (400, 401, 413, 429), (body[:60], answer.body)
        user("POST", "/v1/auth/login", raw_body + b"\xff")
    for message in (
        auth_pb2.LoginRequest(username="vic", password=f"{SECRET}\0").SerializeToString(),
        auth_pb2.LoginRequest(username=SECRET, password=password).SerializeToString(),
        auth_pb2.LoginRequest(username="vic", password=SECRET).SerializeToString().replace(b"pl4", b"\xff\xa04"),
        auth_pb2.LoginRequest(username="vic", password=SECRET).SerializeToString()[:-3],
    ):
        http2.call(own, "vic", LOGIN, [], message)
