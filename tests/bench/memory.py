"""What a thousand sleeping jobs cost the server and the executor."""

from __future__ import annotations

import time

from jobworker.v1 import job_pb2
from tests.harness.service import Service
from tests.harness.wait import children, command_line, until

JOBS = 1000


def resident(pid: int) -> int:
    """Bytes (proc(5), VmRSS)."""
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmRSS"))


def executor_pid(service: Service) -> int:
    """The parent of the jobs: below its guard."""
    guard = service.child("executor")
    inner = [p for p in children(guard) if any(a == "--fd" for a in command_line(p))]
    return inner[0] if inner else guard


def measure(service: Service) -> None:
    """Prints KiB a job."""
    api = service.api("alice")
    api.wait(api.submit(*["true"] * JOBS, batch=job_pb2.BatchOptions(parallelism=50)))  # grown once, as in use
    server, executor = service.child("server"), executor_pid(service)
    before = resident(server), resident(executor)
    batch = api.submit(*["exec sleep 600"] * JOBS, batch=job_pb2.BatchOptions(parallelism=JOBS))
    until(lambda: api.get(batch).counts.running == JOBS, "all run", 120)
    time.sleep(1)
    grown = [
        (now - then) / JOBS / 1024 for now, then in zip((resident(server), resident(executor)), before, strict=True)
    ]
    ended = api.cancel(batch)
    assert ended.counts.cancelled == JOBS, ended
    print(f"memory: {JOBS} sleeping jobs, KiB each (aim < 10): server {grown[0]:.1f}, executor {grown[1]:.1f}")
