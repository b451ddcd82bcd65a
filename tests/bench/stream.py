"""How fast a 1 GiB log reaches a follower, over a bare gRPC stream of messages of the same size, both with mutual TLS
and to gRPC's own client."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator

import grpc

from jobworker.v1 import query_pb2, schedule_pb2
from tests.bench.bareserver import ZEROS, bare_server
from tests.bench.row import Goal, Row
from tests.bench.run import Run

STREAM_LOGS = "/jobworker.v1.JobQueryService/StreamLogs"
ROUNDS = 3
_MIB = 1 << 20


def _receive(
    channel: grpc.Channel, method: str, request: bytes, metadata: list[tuple[str, str]], size: int
) -> tuple[float, int]:
    """MiB a second, and the bytes of the largest message."""
    call = channel.unary_stream(method, response_deserializer=query_pb2.LogChunk.FromString)
    began = time.perf_counter()
    total = largest = 0
    for chunk in call(request, metadata=metadata, timeout=600):
        total += len(chunk.data)
        largest = max(largest, len(chunk.data))
    assert total == size, total
    return size / _MIB / (time.perf_counter() - began), largest


def measure(run: Run) -> Iterator[Row]:
    """The rows: each round a pair."""
    size = run.size(1 << 30, 64 << 20)
    with run.service() as service, bare_server(service) as channel:
        api = service.api("alice")

        def stream(command: str, *, wait: bool) -> tuple[float, int]:
            correlation_id = api.submit(schedule_pb2.JobRequest(command=command))
            if wait:
                api.wait(correlation_id, 300)
            request = query_pb2.StreamLogsRequest(correlation_id=correlation_id).SerializeToString()
            return _receive(api.channel, STREAM_LOGS, request, api.metadata, size)

        finished = f"head -c {size} /dev/zero"
        _, message_bytes = stream(finished, wait=True)
        asked = json.dumps({"bytes": size, "message_bytes": message_bytes}).encode()
        floors, rates, live = [], [], []
        for _ in range(ROUNDS):
            floors.append(_receive(channel, ZEROS, asked, [], size)[0])
            rates.append(stream(finished, wait=True)[0])
            live.append(stream(finished, wait=False)[0])
            run.say(f"MiB/s: bare {floors[-1]:.0f}, finished {rates[-1]:.0f}, while it is written {live[-1]:.0f}")
        floor_is = f"bare stream of {message_bytes >> 10} KiB messages"
        floor, name = statistics.median(floors), f"a log of {size >> 20} MiB"
        yield Row(f"{name}, finished", statistics.median(rates), "MiB/s", floor, floor_is, Goal(">=", 0.9))
        yield Row(f"{name}, while it is written", statistics.median(live), "MiB/s", floor, floor_is)
