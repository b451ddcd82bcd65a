"""Jobs per second of one batch of `true`, everything recorded, over a bare posix_spawn loop in C with a file each."""

from __future__ import annotations

import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from jobworker.v1 import job_pb2, schedule_pb2
from tests.harness.service import Service

JOBS = 5000
PARALLEL = 4
MESSAGE_JOBS = 250  # as the SDK sends them
ROUNDS = 3


def bare(folder: Path, jobs: int) -> float:
    """Jobs per second without a service."""
    program = folder / "bare"
    if not program.exists():
        source = Path(__file__).with_name("bare.c")
        subprocess.run(["cc", "-O2", "-o", str(program), str(source)], check=True)
    # Kept until the bench is over: some file systems search long for a place right after thousands of files were
    # removed (ext4 without a journal passes over what was deleted in the last seconds), and who runs next would pay.
    logs = Path(tempfile.mkdtemp(dir=folder))
    began = time.perf_counter()
    subprocess.run([str(program), str(jobs), str(PARALLEL), str(logs)], check=True)
    return jobs / (time.perf_counter() - began)


def served(service: Service, jobs: int) -> tuple[float, float]:
    """Jobs per second from the call to the final state, and from the batch's first start to its last end."""
    api = service.api("alice")
    job = schedule_pb2.JobRequest(argv=["/bin/true"])
    began = time.perf_counter()
    messages = [schedule_pb2.JobRequest(jobs=[job] * MESSAGE_JOBS) for _ in range(jobs // MESSAGE_JOBS)]
    messages[0].batch.CopyFrom(job_pb2.BatchOptions(parallelism=PARALLEL))
    correlation_id = api.schedule.ExecuteJobs(iter(messages), **api.call()).correlation_id
    batch = api.wait(correlation_id, 300)
    seconds = time.perf_counter() - began
    assert batch.counts.succeeded == jobs
    inner = (batch.ended_at.ToNanoseconds() - batch.started_at.ToNanoseconds()) / 1e9
    return jobs / seconds, jobs / inner


def measure(folder: Path, service: Service) -> None:
    """Prints the ratio, pair by pair."""
    bare(folder, 500)
    served(service, 500)
    whole, inner = [], []
    for _ in range(ROUNDS):
        yardstick = bare(folder, JOBS)
        all_in, running = served(service, JOBS)
        print(f"  jobs/s: bare {yardstick:.0f}, submitted to final {all_in:.0f}, first start to last end {running:.0f}")
        whole.append(all_in / yardstick)
        inner.append(running / yardstick)
    print(f"throughput: {JOBS} x true, {PARALLEL} at a time, over a bare C loop with a file each (aim 0.8):")
    print(
        f"  submitted to final {statistics.median(whole):.2f}, first start to last end {statistics.median(inner):.2f}"
    )
