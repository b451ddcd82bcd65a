"""Whoever has no certificate may connect as often as they like: those who have one get in all the same, and the
service keeps its files and its memory."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.figures import get
from tests.harness.pki import client_context
from tests.harness.rest import Rest, rest
from tests.harness.service import Service, running
from tests.harness.wait import until

FLOOD = 1500
DESCRIPTORS = 1024
PATIENCE_SECONDS = 60.0
# A connection that stays a stranger costs some 50 KB at most, and there are 500 of them.
GROWTH_BYTES = 64 << 20


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that may have few files open."""
    service = Service(tmp_path_factory.mktemp("small") / "service")

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))

    service.start(preexec_fn=limit)
    yield service
    service.stop()


@pytest.fixture(autouse=True)
def many_files() -> Iterator[None]:
    """This process may have as many open as the flood takes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def hello(service: Service) -> bytes:
    """The first thing that a TLS client says."""
    out = ssl.MemoryBIO()
    context = client_context(service.pki / "clients" / "alice", with_certificate=False)
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname="localhost").do_handshake()
    return out.read()


@contextlib.contextmanager
def flood(port: int, words: bytes, *, address: str = "127.0.0.1") -> Iterator[threading.Event]:
    """Connections that say `words` and no more, one after another and each kept, until the end; set when as many were
    made as the flood has, and then the oldest ones make room for new ones."""
    full, stop = threading.Event(), threading.Event()
    held: list[socket.socket] = []

    def run() -> None:
        number = 0
        while not stop.is_set():
            with contextlib.suppress(OSError):
                sock = socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS, (address, 0))
                if number < FLOOD:
                    held.append(sock)
                else:
                    held[number % FLOOD].close()
                    held[number % FLOOD] = sock
                    full.set()
                number += 1
                sock.sendall(words)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield full
    finally:
        stop.set()
        thread.join(PATIENCE_SECONDS)
        for sock in held:
            sock.close()


@pytest.mark.parametrize(("says", "address"), [
    ("nothing", "127.0.0.1"), ("hello", "127.0.0.2"), ("rubbish", "127.0.0.2"),
])  # fmt: skip
def test_a_flood_on_rest_keeps_no_client_out_and_takes_no_files_of_jobs(
    small: Service, says: str, address: str
) -> None:
    server = small.child("server")
    before = rss_bytes(server)
    words = {"nothing": b"", "hello": hello(small), "rubbish": b"GET / HTTP/1.1\r\n\r\n"}[says]
    alice = rest(small)
    with flood(small.rest_port, words, address=address) as full:
        assert full.wait(PATIENCE_SECONDS)
        for _ in range(5):
            assert rest(small, login=False)("GET", "/openapi.json").status == 200
        assert alice.wait(alice.submit("true", "true"))["counts"]["succeeded"] == 2
        assert small.api().wait(small.api().submit("true")).counts.succeeded == 1
        assert len(os.listdir(f"/proc/{server}/fd")) < DESCRIPTORS // 2
        assert get(small.metrics_port, "/readyz")[0] == 200
    until(lambda: rss_bytes(server) < before + GROWTH_BYTES, "memory is given back")


@pytest.mark.parametrize("words", [b"", b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Slow: "])
def test_a_flood_on_metrics_keeps_no_probe_out(small: Service, words: bytes) -> None:
    with flood(small.metrics_port, words) as full:
        assert full.wait(PATIENCE_SECONDS)
        for _ in range(5):
            assert get(small.metrics_port, "/livez")[0] == get(small.metrics_port, "/readyz")[0] == 200
        assert get(small.metrics_port, "/metrics")[0] == 200


def test_idle_connections_to_metrics_keep_no_probe_out(shared_service: Service) -> None:
    port = shared_service.metrics_port
    with contextlib.ExitStack() as idle:
        for _ in range(300):
            idle.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS))
            assert get(port, "/livez")[0] == 200


@pytest.mark.parametrize("say_hello", [False, True])
def test_who_never_ends_the_handshake_is_sent_away(tmp_path: Path, say_hello: bool) -> None:
    with running(tmp_path / "service", REST__HANDSHAKE_SECONDS="1") as service:
        alice = rest(service)
        connection = alice.connect()
        connection.connect()
        with socket.create_connection(("127.0.0.1", service.rest_port), PATIENCE_SECONDS) as sock:
            sock.sendall(hello(service) if say_hello else b"")
            with contextlib.suppress(ConnectionResetError):
                while sock.recv(65536):
                    pass
        # The limit is for strangers: whoever is known may be silent.
        connection.request("GET", "/v1/batches", headers=alice.headers(None, {}))
        assert connection.getresponse().status == 200
        connection.close()


def test_one_certificate_takes_its_own_connections_and_leaves_others_theirs(tmp_path: Path) -> None:
    most = 5
    settings = {"REST__CONNECTIONS": "8", "REST__CONNECTIONS_PER_CLIENT": str(most)}
    with running(tmp_path / "service", **settings) as service, contextlib.ExitStack() as held:
        alice, bob = rest(service), rest(service, "bob")
        idle = [held.enter_context(alice.socket()) for _ in range(3 * most)]
        for sock in idle[: -2 * most]:  # each one more took the place of the one that was idle longest
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(1) == b""
        assert asks(idle[-1], alice)
        assert bob("GET", "/v1/batches").status == 200
        batch = alice.submit("sleep 60")
        for _ in range(most):
            assert held.enter_context(alice.open("GET", f"/v1/batches/{batch}/jobs/0/logs")).status == 200
        refused = alice("GET", "/v1/batches")
        assert (refused.status, refused.json["code"], refused.headers["retry-after"]) == (429, 8, "1")
        assert bob("GET", "/v1/batches").status == 200
        api = service.api()
        api.cancel(batch)


def asks(sock: ssl.SSLSocket, user: Rest) -> bool:
    """Whether a request on this connection is answered."""
    sock.sendall(f"GET /v1/batches HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {user.token}\r\n\r\n".encode())
    return sock.recv(12) == b"HTTP/1.1 200"


def rss_bytes(pid: int) -> int:
    """Of a process."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
