"""One large batch of `true`, everything recorded: its rate over a bare posix_spawn loop in C with a file each, what a
job costs server and executor, and whether a hundred thousand go as fast as a few."""

from __future__ import annotations

import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jobworker.v1 import job_pb2, schedule_pb2
from tests.bench.process import Spent
from tests.bench.row import Goal, Row
from tests.bench.run import Run
from tests.harness.service import Service

PARALLEL = 4
MESSAGE_JOBS = 250  # as the SDK sends them
ROUNDS = 3
WAIT_SECONDS = 1200.0


@dataclass(frozen=True)
class Bare:
    """What the loop in C did."""

    rate: float
    cpu_ms: float  # its own, a job


@dataclass(frozen=True)
class Served:
    """What the service did: jobs a second, and milliseconds of CPU a job."""

    rate: float  # from the call to the final state
    inner_rate: float  # from the batch's first start to its last end
    server_ms: float
    executor_ms: float


def bare(folder: Path, jobs: int) -> Bare:
    """Without a service."""
    program = folder / "bare"
    if not program.exists():
        source = Path(__file__).with_name("bare.c")
        subprocess.run(["cc", "-O2", "-o", str(program), str(source)], check=True)
    # Kept until the bench is over: some file systems search long for a place right after thousands of files were
    # removed (ext4 without a journal passes over what was deleted in the last seconds), and who runs next would pay.
    logs = tempfile.mkdtemp(dir=folder)
    began = time.perf_counter()
    done = subprocess.run([str(program), str(jobs), str(PARALLEL), logs], check=True, stdout=subprocess.PIPE)
    return Bare(jobs / (time.perf_counter() - began), int(done.stdout) / 1e3 / jobs)


def served(service: Service, jobs: int) -> Served:
    """By the service."""
    api = service.api("alice")
    job = schedule_pb2.JobRequest(argv=["/bin/true"])

    def messages() -> Iterator[schedule_pb2.JobRequest]:
        for begin in range(0, jobs, MESSAGE_JOBS):
            message = schedule_pb2.JobRequest(jobs=[job] * min(MESSAGE_JOBS, jobs - begin))
            if not begin:
                message.batch.CopyFrom(job_pb2.BatchOptions(parallelism=PARALLEL))
            yield message

    before = Spent.now(service)
    answer: schedule_pb2.JobResponse = api.schedule.ExecuteJobs(messages(), **api.call(timeout=WAIT_SECONDS))
    batch = api.wait(answer.correlation_id, WAIT_SECONDS)
    spent = Spent.now(service).since(before)
    api.close()
    assert batch.counts.succeeded == jobs
    inner = (batch.ended_at.ToNanoseconds() - batch.started_at.ToNanoseconds()) / 1e9
    return Served(jobs / spent.at, jobs / inner, spent.server * 1e3 / jobs, spent.executor * 1e3 / jobs)


def measure(run: Run) -> Iterator[Row]:
    """The rows."""
    jobs = run.size(5000, 1000)
    with run.service() as service:
        bare(run.folder, 500)
        served(service, 500)
        floors: list[Bare] = []
        ours: list[Served] = []
        for _ in range(ROUNDS):
            floors.append(bare(run.folder, jobs))
            ours.append(served(service, jobs))
            run.say(
                f"jobs a second: bare {floors[-1].rate:.0f}, submitted to final {ours[-1].rate:.0f}, "
                f"first start to last end {ours[-1].inner_rate:.0f}"
            )
        floor = statistics.median(f.rate for f in floors)
        rate = statistics.median(s.rate for s in ours)
        name = f"batch of {jobs} `true`, {PARALLEL} at a time"
        yield Row(f"{name}, submitted to final", rate, "jobs/s", floor, "bare C loop", Goal(">=", 0.8))
        inner = statistics.median(s.inner_rate for s in ours)
        yield Row(f"{name}, first start to last end", inner, "jobs/s", floor, "bare C loop")
        large_jobs = run.size(100_000, 5000)
        large = served(service, large_jobs)
        name = f"batch of {large_jobs} `true`"
        yield Row(f"{name}, submitted to final", large.rate, "jobs/s", rate, f"batch of {jobs}", Goal(">=", 0.95))
        small_ms = statistics.median(s.server_ms for s in ours)
        goal = Goal("<=", 0.15, absolute=True)
        yield Row(f"{name}, server CPU per job", large.server_ms, "ms", small_ms, f"batch of {jobs}", goal)
        floor_ms = statistics.median(f.cpu_ms for f in floors)
        goal = Goal("<=", 0.25, absolute=True)
        yield Row(f"{name}, executor CPU per job", large.executor_ms, "ms", floor_ms, "bare C loop", goal)
