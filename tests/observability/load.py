"""What a service is used and misused for, again and again, so that each of its metrics has something to tell."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import grpc
import pytest

from jobworker.v1 import admin_pb2, admin_pb2_grpc, auth_pb2, query_pb2, schedule_pb2
from tests.harness.rest import rest
from tests.harness.service import CALL_SECONDS, Api, Service

SETTINGS = {
    "JOBS__RUNNING": "4",
    "JOBS__GRACE_SECONDS": "1",
    "LIMITS__STORED_BYTES": str(100 << 30),
    "LIMITS__STORED_FILES": str(10_000_000),
}
"""So few places that jobs wait, and each figure that is there only with a limit."""


class Load:
    """One round after another, in a thread of its own."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._alice = service.api("alice")
        self._admin = service.api("admin")
        self._stranger = service.api("vic", login=False)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.rounds = 0
        self.problem: BaseException | None = None

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def stop(self) -> None:
        """Ends, with the round under way."""
        self._end.set()
        self._thread.join(CALL_SECONDS * 2)
        assert not self._thread.is_alive()

    def refused_login(self) -> None:
        """With a wrong password."""
        with _refused(grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.RESOURCE_EXHAUSTED):
            login = auth_pb2.LoginRequest(username="vic", password="wrong")
            self._stranger.auth.Login(login, timeout=CALL_SECONDS, wait_for_ready=True)

    def _run(self) -> None:
        try:
            while not self._end.wait(0.2):
                self._round()
                self.rounds += 1
        except BaseException as error:  # told to the test, which would wait for nothing
            self.problem = error

    def _round(self) -> None:
        self._jobs()
        self._misuse()
        self._connections()

    def _jobs(self) -> None:
        request = schedule_pb2.JobRequest
        alice = self._alice
        # They hold every place, so that some of those behind them wait, and end when they are cancelled.
        holding = alice.submit(*["sleep 60"] * 8)
        over = request(command="head -c 5000 /dev/zero")
        over.limits.log_bytes = 1000
        late = request(command="sleep 60")
        late.timeout.FromMilliseconds(50)
        mixed = alice.submit(
            "echo hello; sleep 0.01", "exit 3", "kill -9 $$", request(argv=["/no/such/program"]), over, late
        )
        alice.cancel(holding)
        alice.wait(mixed)
        alice.wait(holding)
        for _ in alice.follow(mixed):
            pass

    def _misuse(self) -> None:
        self.refused_login()
        with _refused(grpc.StatusCode.UNAUTHENTICATED):
            self._stranger.query.ListBatches(query_pb2.ListBatchesRequest(), **self._stranger.call())
        self._service.api("alice").close()
        _status(self._admin)
        with _refused(grpc.StatusCode.PERMISSION_DENIED):
            _status(self._alice)
        with _refused(grpc.StatusCode.INVALID_ARGUMENT):
            self._alice.get("no-id")

    def _connections(self) -> None:
        rest(self._service)("GET", "/v1/batches")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._service.rest_port)) as sock:
            sock.settimeout(CALL_SECONDS)
            sock.sendall(b"GET / HTTP/1.1\r\n\r\n")  # no handshake
            sock.recv(100)


@contextlib.contextmanager
def running(service: Service) -> Iterator[Load]:
    """A load for as long as a test lasts."""
    load = Load(service)
    load.start()
    try:
        yield load
    finally:
        load.stop()
    assert load.problem is None, load.problem


def _status(api: Api) -> None:
    admin_pb2_grpc.AdminServiceStub(api.channel).GetStatus(admin_pb2.GetStatusRequest(), **api.call())


@contextlib.contextmanager
def _refused(*codes: grpc.StatusCode) -> Iterator[None]:
    with pytest.raises(grpc.RpcError) as found:
        yield
    assert found.value.code() in codes, found.value
