"""A line written in a job until its receipt in a client that follows."""

from __future__ import annotations

import statistics
import time

from jobworker.v1 import schedule_pb2
from tests.harness.service import Service

LINES = 1000
# Each line carries the clock that all processes of a machine share (CLOCK_MONOTONIC).
WRITER = f"""
import os, time
time.sleep(0.5)
for _ in range({LINES}):
    os.write(1, b"%d\\n" % time.monotonic_ns())
    time.sleep(0.002)
"""


def measure(service: Service) -> None:
    """Prints percentiles."""
    api = service.api("alice")
    correlation_id = api.submit(schedule_pb2.JobRequest(argv=["/usr/bin/env", "python3", "-c", WRITER]))
    delays = []
    rest = b""
    for chunk in api.follow(correlation_id):
        now = time.monotonic_ns()
        lines = (rest + chunk.data).split(b"\n")
        rest = lines.pop()
        delays += [(now - int(line)) / 1e6 for line in lines]
    assert len(delays) == LINES
    points = statistics.quantiles(delays, n=100)
    print(f"latency: a line written to its receipt (aim p50 < 1 ms): p50 {points[49]:.2f} ms, p99 {points[98]:.2f} ms")
