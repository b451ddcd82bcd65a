"""Floods on the gRPC port: of connections, of calls, of streams that take nothing, of requests that do not come.
Those who do it are limited, everyone else is served, and what it took is given back."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from jobworker.v1 import query_pb2, schedule_pb2
from tests.harness import frames
from tests.harness.frames import Http2
from tests.harness.refusal import refusal, refused
from tests.harness.service import Api, Service, running
from tests.harness.wait import until

ROOT = Path(__file__).parents[2]
OWN = [("grpc.use_local_subchannel_pool", 1)]  # a connection of its own


def resident_bytes(pid: int) -> int:
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmRSS"))


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def files_of(pid: int, suffix: str) -> int:
    """Open files whose name ends so."""
    count = 0
    for descriptor in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            count += os.readlink(f"/proc/{pid}/fd/{descriptor}").endswith(suffix)
    return count


@contextlib.contextmanager
def flood(port: int, count: int, hello: str, *addresses: str) -> Iterator[None]:
    command = [sys.executable, "-m", "tests.harness.flood", str(port), str(count), hello, *addresses]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield
    finally:
        process.communicate(timeout=60)


def stranger(service: Service, user: str) -> Api:
    """A user over a connection of their own, closed by the caller."""
    return Api(service.port, service.pki / "clients" / user, options=OWN)


@pytest.mark.parametrize("hello", ["nothing", "tls"])
def test_strangers_by_the_thousand_keep_nobody_out_and_their_memory_is_given_back(service: Service, hello: str) -> None:
    api = service.api()
    server = service.child("server")
    before_bytes, before_descriptors = resident_bytes(server), descriptors(server)
    with (
        flood(service.port, 4000, hello, "127.0.0.1", "127.0.0.2"),
        flood(service.port, 4000, hello, "127.0.0.2", "127.0.0.3"),
    ):
        assert descriptors(server) < 4200  # grpc.connections and what else there is
        assert api.wait(api.submit("true")).counts.succeeded == 1
        other = stranger(service, "bob")
        other.login("bob", service.passwords["bob"])
        assert other.wait(other.submit("true")).counts.succeeded == 1
        other.close()
    until(lambda: descriptors(server) <= before_descriptors + 5, "the connections are gone")
    until(lambda: resident_bytes(server) - before_bytes < 100 << 20, "the memory is given back")
    assert "too many connections without a call" in service.output()


def test_a_handshake_that_does_not_come_ends_the_connection(tmp_path: Path) -> None:
    with (
        running(tmp_path / "service", GRPC__HANDSHAKE_SECONDS="1") as service,
        socket.create_connection(("127.0.0.1", service.port)) as silent,
    ):
        silent.settimeout(60)
        assert silent.recv(1) == b""


def test_a_user_with_too_many_connections_loses_the_one_that_is_idle_longest(tmp_path: Path) -> None:
    with running(tmp_path / "service", GRPC__CONNECTIONS_PER_CLIENT="3", METRICS__ENABLED="false") as service:
        server = service.child("server")
        busy = service.api()
        batch = busy.submit("echo; exec sleep 600")
        followed = busy.follow(batch)
        until(lambda: files_of(server, "/0.log") > 0, "it is followed")
        rest = [stranger(service, "alice") for _ in range(4)]
        with_three = 0
        for number, api in enumerate(rest):
            api.token = busy.token
            api.get(batch)
            if number == 1:
                with_three = descriptors(server)
        until(lambda: descriptors(server) <= with_three, "there are three again")
        busy.cancel(batch)
        assert list(followed)[-1].WhichOneof("payload") == "end"  # the busy one was left alone
        bob = service.api("bob")
        assert bob.wait(bob.submit("true")).counts.succeeded == 1
        for api in rest:
            api.close()


def test_calls_by_the_thousand_are_answered_or_told_when_to_come_again(service: Service) -> None:
    apis = [service.api()]
    for _ in range(5):
        apis.append(stranger(service, "alice"))
        apis[-1].token = apis[0].token
    request = query_pb2.ListBatchesRequest()
    calls = [
        api.query.ListBatches.future(request, metadata=api.metadata, timeout=120, wait_for_ready=True)
        for _ in range(1000)
        for api in apis
    ]
    codes: Counter[str] = Counter()
    for call in calls:
        error = call.exception()
        codes["OK" if error is None else error.code().name] += 1
        if error is not None:
            found = refusal(error)
            assert found.name in ("RESOURCE_EXHAUSTED", "UNAVAILABLE"), found
            assert found.retry_seconds is not None, found
    assert codes["OK"] > 0
    for api in apis[1:]:
        api.close()


def test_one_users_streams_are_limited_and_anothers_are_not_touched(tmp_path: Path) -> None:
    with running(tmp_path / "service", LIMITS__USER_STREAMS="5") as service:
        api = service.api()
        batch = api.submit("exec sleep 600")
        streams = [api.follow(batch) for _ in range(5)]

        def full() -> bool:
            try:
                api.query.WaitBatch(
                    query_pb2.WaitBatchRequest(correlation_id=batch), metadata=api.metadata, timeout=0.5
                )
            except grpc.RpcError as error:
                return error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            return False

        until(full, "the sixth is refused")
        found = refused(lambda: api.follow(batch))
        assert (found.name, found.subjects) == ("RESOURCE_EXHAUSTED", ["user:alice"])
        assert found.retry_seconds
        bob = service.api("bob")
        assert bob.wait(bob.submit("true")).counts.succeeded == 1
        streams.pop().cancel()  # type: ignore[attr-defined]
        api.cancel(batch)
        for stream in streams:
            assert list(stream)[-1].WhichOneof("payload") == "end"


def test_uploads_that_stop_half_way_are_ended_and_leave_nothing_and_hold_up_nobody_else(tmp_path: Path) -> None:
    limits = {"LIMITS__UPLOAD_IDLE_SECONDS": "2", "LIMITS__USER_UPLOADS": "3"}
    with running(tmp_path / "service", **limits) as service:
        server = service.child("server")
        api = service.api()
        connection = Http2(service.port, service.pki / "clients" / "alice")
        job = schedule_pb2.JobRequest(command="touch /tmp/must-not-run").SerializeToString()
        first = b"\0" + len(job).to_bytes(4, "big") + job
        for _ in range(10):
            stream = connection.call("/jobworker.v1.JobScheduleService/ExecuteJobs", api.token, None)
            connection.send(frames.DATA, 0, stream, first)
        bob = service.api("bob")
        assert bob.wait(bob.submit("true")).counts.succeeded == 1
        ended = 0
        for kind, flags, _, _ in connection.frames():
            ended += kind == frames.HEADERS and flags & frames.END_STREAM
            if ended == 10:
                break
        assert files_of(server, "/batch.jsonl") == 0
        assert not any((service.data / "active").iterdir())
        assert api.wait(api.submit("true")).counts.succeeded == 1
        connection.close()


def test_a_request_of_which_the_end_does_not_come_is_ended(tmp_path: Path) -> None:
    with running(tmp_path / "service", LIMITS__UPLOAD_IDLE_SECONDS="1") as service:
        api = service.api()
        connection = Http2(service.port, service.pki / "clients" / "alice")
        for _ in range(40):
            connection.call("/jobworker.v1.JobQueryService/GetBatch", api.token, b"x" * 100, announced=1 << 20)
        ended = 0
        for kind, flags, _, _ in connection.frames():
            ended += kind == frames.HEADERS and flags & frames.END_STREAM
            if ended == 40:
                break
        assert ended == 40
        connection.close()


def test_followers_that_grant_no_window_share_one_budget_and_hold_up_no_reader(tmp_path: Path) -> None:
    budget = 4 << 20
    with running(tmp_path / "service", LIMITS__HELD_BYTES=str(budget)) as service:
        api, bob = service.api(), service.api("bob")
        batch = api.submit("head -c 8000000 /dev/zero")
        api.wait(batch)
        server = service.child("server")
        before = resident_bytes(server)
        connection = Http2(service.port, service.pki / "clients" / "alice", window=0)
        request = query_pb2.StreamLogsRequest(correlation_id=batch).SerializeToString()
        for _ in range(400):
            connection.call("/jobworker.v1.JobQueryService/StreamLogs", api.token, request)
        until(lambda: files_of(server, "/0.log") > 0, "they are read")
        theirs = bob.submit("head -c 8000000 /dev/zero")
        assert len(bob.log(theirs)) == 8_000_000
        assert resident_bytes(server) - before < 100 << 20
        connection.close()
        until(lambda: files_of(server, "/0.log") == 0, "the files are closed")


def test_a_client_that_pings_too_often_is_sent_away_and_one_that_keeps_the_interval_stays(service: Service) -> None:
    often = Http2(service.port, service.pki / "clients" / "alice")
    for number in range(10):
        with contextlib.suppress(OSError):
            often.send(frames.PING, 0, 0, number.to_bytes(8, "big"))
    away = [payload for kind, _, _, payload in often.frames() if kind == frames.GOAWAY]
    assert int.from_bytes(away[0][4:8], "big") == frames.ENHANCE_YOUR_CALM
    assert b"too_many_pings" in away[0]
    often.close()

    kept = Http2(service.port, service.pki / "clients" / "alice")
    answers = kept.frames()
    for number in range(5):
        kept.send(frames.PING, 0, 0, number.to_bytes(8, "big"))
        for kind, flags, _, _ in answers:
            assert kind != frames.GOAWAY
            if kind == frames.PING and flags & frames.ACK:
                break
        time.sleep(5.1)  # the interval that docs/api.md names is what is tried here
    kept.close()
