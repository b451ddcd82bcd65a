"""A line written in a job until its receipt: by one follower with gRPC's own client, beside a bare gRPC server that
sends what the same program prints; and by a hundred followers of one log."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator

from jobworker.v1 import query_pb2, schedule_pb2
from tests.bench.bareserver import OUTPUT, bare_server
from tests.bench.caller import Caller
from tests.bench.process import Spent, resident_kib, server_pid
from tests.bench.row import Goal, Row
from tests.bench.run import Run
from tests.bench.stream import STREAM_LOGS
from tests.harness.service import Service
from tests.harness.wait import until

FOLLOWERS = 100
# Each line carries the clock that all processes of a machine share (CLOCK_MONOTONIC).
WRITER = """
import os, sys, time
lines, pause, wait = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
time.sleep(wait)
for _ in range(lines):
    os.write(1, b"%d\\n" % time.monotonic_ns())
    time.sleep(pause)
"""
HEAD_SECONDS = 0.5  # until the first line, so that a follower is there before


def _argv(lines: int, pause_seconds: float, wait_seconds: float = HEAD_SECONDS) -> list[str]:
    return ["/usr/bin/env", "python3", "-c", WRITER, str(lines), str(pause_seconds), str(wait_seconds)]


class Delays:
    """Of one follower, in milliseconds."""

    def __init__(self) -> None:
        self.all: list[float] = []
        self._rest = b""

    def took(self, data: bytes) -> None:
        """A piece of the log has come."""
        now = time.monotonic_ns()
        *lines, self._rest = (self._rest + data).split(b"\n")
        self.all += [(now - int(line)) / 1e6 for line in lines]


def _percentiles(delays: Iterable[float]) -> tuple[float, float]:
    points = statistics.quantiles(delays, n=100)
    return points[49], points[98]


def measure(run: Run) -> Iterator[Row]:
    """The rows."""
    with run.service() as service:
        yield from _one(run, service)
        yield from _many(run, service)


def _one(run: Run, service: Service) -> Iterator[Row]:
    lines = run.size(1000, 100)
    argv = _argv(lines, 0.002)
    api = service.api("alice")
    ours, floor = Delays(), Delays()
    correlation_id = api.submit(schedule_pb2.JobRequest(argv=argv))
    for chunk in api.follow(correlation_id):
        ours.took(chunk.data)
    with bare_server(service) as channel:
        output = channel.unary_stream(OUTPUT, response_deserializer=query_pb2.LogChunk.FromString)
        for chunk in output(json.dumps({"argv": argv}).encode(), timeout=600):
            floor.took(chunk.data)
    assert len(ours.all) == len(floor.all) == lines
    floor_is = "bare gRPC server"
    for name, bound, value, least in zip(
        ("p50", "p99"), (0.3, 2), _percentiles(ours.all), _percentiles(floor.all), strict=True
    ):
        goal = Goal("<=", bound, absolute=True)
        yield Row(f"line written to receipt {name}", value, "ms", least, floor_is, goal)


def _many(run: Run, service: Service) -> Iterator[Row]:
    """Followers enough that the server is busy a part of the time: each line is a message to each."""
    lines, count = run.size(200, 20), run.size(FOLLOWERS, 20)
    with Caller(service, service.api("alice").token) as caller:
        _followed(service, caller, 10, 1)
        one, _, _ = _followed(service, caller, lines, 1)
        resident = resident_kib(server_pid(service))
        peak: list[int] = []
        many, spent, client_seconds = _followed(
            service, caller, lines, count, lambda: peak.append(resident_kib(server_pid(service)))
        )
    name, floor_is = f"{count} followers of one log", "one follower"
    note = f"the client took {client_seconds / spent.at:.0%} of a processor"
    for point, value, least in zip(("p50", "p99"), _percentiles(many), _percentiles(one), strict=True):
        yield Row(f"{name}, line written to receipt by each {point}", value, "ms", least, floor_is, note=note)
        note = ""
    yield Row(f"{name}, server CPU per line and follower", spent.server * 1e6 / lines / count, "us")
    yield Row(f"{name}, server memory per follower", (peak[0] - resident) / count, "KiB")
    run.say(f"{count} followers took {lines} lines in {spent.at:.1f} s")


def _followed(
    service: Service, caller: Caller, lines: int, count: int, under_way: Callable[[], object] = lambda: None
) -> tuple[list[float], Spent, float]:
    """The delays of all followers of a job that prints lines, what it cost, and the client's CPU seconds. `under_way`
    is called when the last one has got its first line."""
    api = service.api("alice")
    correlation_id = api.submit(schedule_pb2.JobRequest(argv=_argv(lines, 0.05, HEAD_SECONDS + count * 0.01)))
    until(lambda: api.get(correlation_id).counts.running == 1, "the job runs")
    delays = [Delays() for _ in range(count)]
    waiting = set(range(count))

    def took(follower: int, message: bytes) -> None:
        delays[follower].took(query_pb2.LogChunk.FromString(message).data)
        if waiting and delays[follower].all:
            waiting.discard(follower)
            if not waiting:
                under_way()

    request = query_pb2.StreamLogsRequest(correlation_id=correlation_id).SerializeToString()
    before, client = Spent.now(service), caller.cpu_seconds
    caller.follow(STREAM_LOGS, [request] * count, took)
    spent = Spent.now(service).since(before)
    assert all(len(d.all) == lines for d in delays)
    return [delay for d in delays for delay in d.all], spent, caller.cpu_seconds - client
