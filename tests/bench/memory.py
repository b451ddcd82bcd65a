"""What running jobs cost the server and the executor: memory each, and CPU while nothing happens."""

from __future__ import annotations

import time
from collections.abc import Iterator

from jobworker.v1 import job_pb2, schedule_pb2
from tests.bench.idle import idle
from tests.bench.process import executor_pid, resident_kib, server_pid
from tests.bench.row import Goal, Row
from tests.bench.run import Run
from tests.harness.wait import until


def measure(run: Run) -> Iterator[Row]:
    """The rows."""
    jobs = run.size(10_000, 500)
    with run.service(JOBS__RUNNING=str(jobs)) as service:
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
