"""Logins, refusals and connections are counted, whichever way they came."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc

from jobworker.v1 import auth_pb2, query_pb2
from tests.harness.figures import Figures, scrape, until_value
from tests.harness.pki import client_context, make_pki
from tests.harness.refusal import refused
from tests.harness.rest import Rest
from tests.harness.service import Service, running
from tests.harness.wait import until


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(tmp_path_factory.mktemp("access") / "service") as service:
        yield service


@pytest.fixture
def grows(own: Service) -> Callable[..., Figures]:
    """Waits until a sample has grown by a number since the test began."""
    before = scrape(own.metrics_port)
    return lambda by, name, **labels: until_value(own, name, before.sum(name, **labels) + by, **labels)


def test_logins_are_counted_by_outcome(own: Service, grows: Callable[..., Figures]) -> None:
    api = own.api()
    wrong = auth_pb2.LoginRequest(username="alice", password="wrong")
    for _ in range(3):
        assert refused(lambda: api.auth.Login(wrong, timeout=60)).name == "UNAUTHENTICATED"
    grows(1, "jobworker_logins_total", outcome="accepted")
    grows(3, "jobworker_logins_total", outcome="login_failed")
    grows(0, "jobworker_denied_total")


def test_a_user_who_guesses_is_throttled_and_that_is_counted(own: Service, grows: Callable[..., Figures]) -> None:
    api = own.api("bob", login=False)
    wrong = auth_pb2.LoginRequest(username="bob", password="wrong")
    names = [refused(lambda: api.auth.Login(wrong, timeout=60)).name for _ in range(12)]
    throttled = names.count("RESOURCE_EXHAUSTED")
    assert throttled
    grows(throttled, "jobworker_logins_total", outcome="throttled")
    grows(12 - throttled, "jobworker_logins_total", outcome="login_failed")


def test_calls_that_are_not_let_in_are_counted_by_reason_over_grpc_and_rest(
    own: Service, grows: Callable[..., Figures]
) -> None:
    stranger = own.api(login=False)
    request = query_pb2.ListBatchesRequest()
    assert refused(lambda: stranger.query.ListBatches(request, timeout=60)).name == "UNAUTHENTICATED"
    assert (
        Rest(own.rest_port, context=client_context(own.pki / "clients" / "alice"))("GET", "/v1/batches").status == 401
    )
    viewer = own.api("vic")
    with pytest.raises(grpc.RpcError):
        viewer.submit("true")
    with pytest.raises(grpc.RpcError):
        viewer.query.ListBatches(query_pb2.ListBatchesRequest(user="alice"), **viewer.call())
    grows(2, "jobworker_denied_total", reason="token_missing")
    grows(2, "jobworker_denied_total", reason="role_insufficient")
    grows(2, "grpc_server_handled_total", grpc_method="ListBatches", grpc_code="Unauthenticated")


def test_connections_and_failed_handshakes_are_counted(
    own: Service, grows: Callable[..., Figures], tmp_path: Path
) -> None:
    alice = client_context(own.pki / "clients" / "alice")
    for _ in range(3):
        with Rest(own.rest_port, context=alice).socket():
            pass
    own.api().close()
    own.api().close()
    anonymous = client_context(own.pki / "clients" / "alice", with_certificate=False)
    foreign = make_pki(tmp_path / "other")
    stranger = client_context(foreign.client("alice"), ca=own.pki / "clients" / "alice" / "ca.crt")
    for context in (anonymous, stranger):
        _fail(own.rest_port, context)
    with socket.create_connection(("127.0.0.1", own.rest_port)) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
        while plain.recv(1000):
            pass
    grows(3, "jobworker_tls_connections_total", listener="rest")
    grows(2, "jobworker_tls_connections_total", listener="grpc")
    grows(3, "jobworker_tls_handshake_failures_total", listener="rest")
    for words in ("peer did not return a certificate", "the client's certificate is refused: ", "http request"):
        until(lambda words=words: any(words in cause for cause in causes(own)), words)
    assert all(cause.startswith("127.0.0.1: ") for cause in causes(own))


def failed(own: Service, event: str = "handshakes failed") -> list[dict[str, Any]]:
    """The lines of the log on connections that came to nothing."""
    found = map(json.loads, (own.folder / "logs" / "service.jsonl").read_text().splitlines())
    return [line for line in found if line["event"] == event]


def causes(own: Service) -> list[str]:
    return [cause for line in failed(own) for cause in line["of"]]


def test_connections_to_grpc_that_come_to_nothing_are_counted_and_told(
    own: Service, grows: Callable[..., Figures], tmp_path: Path
) -> None:
    name = "jobworker_grpc_connections_without_call_total"
    ca = own.pki / "clients" / "alice" / "ca.crt"
    stranger = client_context(make_pki(tmp_path / "other").client("alice"), ca=ca)
    own.api("admin").close()  # calls
    socket.create_connection(("127.0.0.1", own.port)).close()  # says nothing
    for context in (client_context(own.pki / "clients" / "alice", with_certificate=False), stranger):
        context.set_alpn_protocols(["h2"])
        _fail(own.port, context)
    grows(2, name)
    own.api("admin").close()
    with socket.create_connection(("127.0.0.1", own.port)) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
        while plain.recv(1000):
            pass
    grows(3, name)
    until(lambda: sum(line["connections"] for line in failed(own, "connections ended without a call")) >= 3)
    assert failed(own, "connections ended without a call")[0]["of"] == ["127.0.0.1"]


def test_many_failed_handshakes_are_a_line_or_two(own: Service) -> None:
    before, lines = (sum(line["connections"] for line in failed(own)), len(failed(own)))
    for _ in range(50):
        with socket.create_connection(("127.0.0.1", own.rest_port)) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
            while plain.recv(1000):
                pass
    until(lambda: sum(line["connections"] for line in failed(own)) == before + 50, "each is told")
    assert len(failed(own)) - lines < 10


def _fail(port: int, context: ssl.SSLContext) -> None:
    """With TLS 1.3 the client hears of it when it reads: an alert, or the end."""
    plain = socket.create_connection(("127.0.0.1", port), 60)
    secure = context.wrap_socket(plain, server_hostname="localhost", do_handshake_on_connect=False)
    with secure, contextlib.suppress(ssl.SSLError, ConnectionError):
        secure.do_handshake()
        assert secure.recv(1) == b""


def test_channelz_is_for_administrators_and_knows_the_server(own: Service, grows: Callable[..., Figures]) -> None:
    admin, alice = own.api("admin"), own.api()
    request = channelz_pb2.GetServersRequest()
    servers = channelz_pb2_grpc.ChannelzStub(admin.channel).GetServers(request, **admin.call()).server
    assert sum(server.data.calls_started for server in servers) > 0
    nobody = channelz_pb2.GetServerRequest(server_id=1 << 40)
    missing = refused(lambda: channelz_pb2_grpc.ChannelzStub(admin.channel).GetServer(nobody, **admin.call()))
    assert missing.name == "NOT_FOUND"
    grows(1, "grpc_server_handled_total", grpc_method="GetServer", grpc_code="NotFound")
    answer = refused(lambda: channelz_pb2_grpc.ChannelzStub(alice.channel).GetServers(request, **alice.call()))
    assert answer.name == "PERMISSION_DENIED"
