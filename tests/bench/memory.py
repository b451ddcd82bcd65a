"""What running jobs cost the server and the executor: memory each, and CPU while nothing happens."""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Iterator

from jobworker.v1 import job_pb2, schedule_pb2
from tests.bench.idle import idle
from tests.bench.process import executor_pid, resident_kib, server_pid
from tests.bench.row import Goal, Row
from tests.bench.run import Run
from tests.harness.wait import until

_DESCRIPTORS_EACH = 3  # of a job, in the executor: its pipe, its log, its pidfd
_DESCRIPTORS_BESIDE = 1000


@contextlib.contextmanager
def _descriptors(jobs: int) -> Iterator[int]:
    """So many jobs, or as many as the limit allows; root raises it for what is started meanwhile."""
    was = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = jobs * _DESCRIPTORS_EACH + _DESCRIPTORS_BESIDE
    if needed > was[1]:
        with contextlib.suppress(PermissionError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (needed, needed))
    try:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        yield min(jobs, (hard - _DESCRIPTORS_BESIDE) // _DESCRIPTORS_EACH)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, was)


def measure(run: Run) -> Iterator[Row]:
    """The rows."""
    wanted = run.size(10_000, 500)
    with _descriptors(wanted) as jobs, run.service(JOBS__RUNNING=str(jobs)) as service:
        if jobs < wanted:
            run.say(f"{wanted} need a larger RLIMIT_NOFILE: it allows {jobs}")
        api = service.api("alice")
        # Grown once, as in use.
        api.wait(api.submit(*["true"] * 1000, batch=job_pb2.BatchOptions(parallelism=50)), 300)
        pids = server_pid(service), executor_pid(service)
        before = [resident_kib(pid) for pid in pids]
        began = time.perf_counter()
        batch = api.submit(*["exec sleep 3600"] * jobs, batch=job_pb2.BatchOptions(parallelism=jobs), timeout=300)
        until(lambda: api.get(batch).counts.running == jobs, "all run", 600)
        run.say(f"{jobs} jobs run after {time.perf_counter() - began:.1f} s")
        time.sleep(1)
        grown = [(resident_kib(pid) - then) / jobs for pid, then in zip(pids, before, strict=True)]
        for name, value in zip(("server", "executor"), grown, strict=True):
            yield Row(f"{jobs} running jobs, {name} memory each", value, "KiB", goal=Goal("<=", 10, absolute=True))
        yield from idle(run, service, f"{jobs} running jobs that sleep")
        began = time.perf_counter()
        request = schedule_pb2.CancelBatchRequest(correlation_id=batch)
        cancelled: job_pb2.Batch = api.schedule.CancelBatch(request, **api.call(timeout=300))
        assert cancelled.counts.cancelled == jobs, cancelled
        run.say(f"cancelled after {time.perf_counter() - began:.1f} s")
