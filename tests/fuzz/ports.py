"""Bytes at random on every port of a service that runs: below TLS, above it with a certificate that is good, as frames
of HTTP/2, requests of HTTP/1.1, JSON, and messages of calls that are right in all else. `make fuzz` says others each
time, the tests the same.
"""

from __future__ import annotations

import contextlib
import random
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc

from jobworker.v1 import admin_pb2, auth_pb2, query_pb2, schedule_pb2
from tests.harness import http2
from tests.harness.pki import client_context
from tests.harness.service import Api, Service

# A peer that says nothing is waited for by the service, and not by us.
SECONDS = 0.2
_PIECES = [
    b"\0",
    b"\xff",
    b"\r\n",
    b'"',
    b"{",
    b"[" * 3000,
    b"9" * 30,
    b"\x80" * 10 + b"\x01",
    b"\x0a\xff\xff\xff\xff\x0f",
]
_OUR_FAULT = ("INTERNAL", "UNKNOWN", "DATA_LOSS", "DEADLINE_EXCEEDED")
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # RFC 9113 section 3.4
# As they are sent by a client, each without effect: what a mutated one does to the service is no harm.
MESSAGES: dict[str, Any] = {
    "AuthService/Login": auth_pb2.LoginRequest(username="alice", password="nothing"),
    "AuthService/WhoAmI": auth_pb2.WhoAmIRequest(),
    "JobScheduleService/ExecuteJob": schedule_pb2.JobRequest(command="true", env={"A": "b"}, stdin=b"in"),
    "JobScheduleService/CancelBatch": schedule_pb2.CancelBatchRequest(
        correlation_id="019312d4-5c00-7abc-8def-0123456789ab"
    ),
    "JobQueryService/GetBatch": query_pb2.GetBatchRequest(correlation_id="019312d4-5c00-7abc-8def-0123456789ab"),
    "JobQueryService/SearchJob": query_pb2.SearchJobRequest(correlation_id="x", job_index=[1, 2], omit_log=True),
    "JobQueryService/StreamLogs": query_pb2.StreamLogsRequest(
        correlation_id="x", job_index=[7], tail_lines=3, no_follow=True
    ),
    "JobQueryService/ListBatches": query_pb2.ListBatchesRequest(page_size=3, page_token="x", labels={"a": "b"}),
    "AdminService/GetStatus": admin_pb2.GetStatusRequest(),
}


@dataclass(frozen=True)
class Port:
    """`send` puts one input on it, and gives what is answered; it raises AssertionError where that is a failure of the
    service's own. `answers`: a seed is answered by something that holds this."""

    name: str
    seeds: Sequence[bytes]
    send: Callable[[bytes], bytes]
    answers: bytes


def ports(service: Service, api: Api) -> Iterator[Port]:
    """Every one of a service, each way to it. `api` is alice's."""
    bundle = service.pki / "clients" / "alice"
    plain = {"gRPC": service.port, "REST": service.rest_port, "metrics": service.metrics_port}
    request = b"GET /v1/batches?page_size=2 HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %b\r\n\r\n"
    rest = request % api.token.encode()
    body = b'{"command": "true", "env": {"A": "b"}, "timeout": "3s", "limits": {"openFiles": 100}}'
    post = b"POST /v1/job/schedule HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    post += b"Authorization: Bearer %b\r\n"
    post = post % api.token.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body
    scrape = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: text/plain\r\n\r\n"
    frames = _PREFACE + http2.frame(4, 0, 0) + http2.frame(6, 0, 0, b"12345678") + http2.frame(8, 0, 0, b"\0\0\1\0")
    for name, port in plain.items():
        seeds = [_client_hello(service), scrape, frames]
        yield Port(f"{name}, below TLS", seeds, partial(_raw, port), b"")
    grpc_frames = partial(_over_tls, service.port, client_context(bundle), alpn="h2")
    yield Port("gRPC, frames", [frames], grpc_frames, http2.frame(6, 1, 0, b"12345678"))
    yield Port("REST, requests", [rest, post], partial(_over_tls, service.rest_port, client_context(bundle)), b" 200 ")
    yield Port("metrics, requests", [scrape], partial(_raw, service.metrics_port, ends=False), b"jobworker_")
    for method, message in MESSAGES.items():
        yield Port(f"gRPC, messages of {method}", [message.SerializeToString()], partial(_call, api, method), b"")


def spoiled(chance: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Mostly one of the seeds with some changes; else anything."""
    if chance.random() < 0.15:
        return chance.randbytes(chance.randrange(400))
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.randrange(1, 8)):
        begin = chance.randrange(len(data) + 1)
        stop = min(len(data), begin + chance.randrange(40))
        match chance.randrange(5):
            case 0:
                del data[begin:stop]
            case 1:
                data[begin:begin] = chance.choice(_PIECES)
            case 2:
                data[begin:stop] = chance.randbytes(chance.randrange(1, 20))
            case 3:
                data[begin:begin] = data[begin:stop]
            case _:
                if begin < len(data):
                    data[begin] ^= 1 << chance.randrange(8)
    return bytes(data)


def _client_hello(service: Service) -> bytes:
    out = ssl.MemoryBIO()
    context = client_context(service.pki / "clients" / "alice", with_certificate=False)
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname="localhost").do_handshake()
    return out.read()


def _raw(port: int, data: bytes, *, ends: bool = True) -> bytes:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), SECONDS) as sock:
        return _exchange(sock, data, ends=ends)
    return b""


def _over_tls(port: int, context: ssl.SSLContext, data: bytes, *, alpn: str = "") -> bytes:
    if alpn:
        context.set_alpn_protocols([alpn])
    with (
        socket.create_connection(("127.0.0.1", port), 5) as sock,
        context.wrap_socket(sock, server_hostname="localhost") as secure,
    ):
        secure.settimeout(SECONDS)
        return _exchange(secure, data)


def _exchange(sock: socket.socket, data: bytes, *, ends: bool = False) -> bytes:
    found = b""
    with contextlib.suppress(OSError):
        sock.sendall(data)
        if ends:
            sock.shutdown(socket.SHUT_WR)
        while more := sock.recv(65536):
            found += more
    return found


def _call(api: Api, method: str, data: bytes) -> bytes:
    call = api.channel.unary_stream(f"/jobworker.v1.{method}")(data, metadata=api.metadata, timeout=20)
    try:
        for _ in call:
            pass
    except grpc.RpcError as error:
        code = error.code().name
        if code in _OUR_FAULT:
            raise AssertionError(f"{method}: {data!r}: {code}: {error.details()}") from error
        return code.encode()
    return b"OK"
