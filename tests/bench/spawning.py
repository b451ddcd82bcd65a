"""The executor alone, driven over its socket: `true`, a few and many at a time, on one processor and on all; how many a
second, and its CPU for each."""

from __future__ import annotations

import os
import select
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jobworker.executor import bundle
from tests.bench.batch import bare
from tests.bench.process import cpu_seconds
from tests.bench.row import Goal, Row
from tests.bench.run import Run
from tests.harness.executor import BATCH, Executor

ROUNDS = 3
FEW, MANY = 4, 64
MESSAGE_JOBS = 64  # as the server sends them
IN_FLIGHT = 400


@dataclass(frozen=True)
class Driven:
    """What came of one round."""

    rate: float  # jobs a second
    cpu_ms: float  # a job


def measure(run: Run) -> Iterator[Row]:
    """The rows."""
    jobs = run.size(3000, 300)
    run.folder.chmod(0o755)
    program = run.folder / "executor.pyz"
    bundle.build(str(program))
    processors = sorted(os.sched_getaffinity(0))
    bare(run.folder, 300)
    for some in [processors[:1], processors] if len(processors) > 1 else [processors]:
        for slots in (FEW, MANY):
            found, floors = [], []
            for number in range(ROUNDS):
                floors.append(_bare_on(run.folder, jobs, some).rate)
                place = run.folder / f"{len(some)}-{slots}-{number}"
                place.mkdir()
                found.append(drive(program, place, jobs=jobs, slots=slots, processors=some))
            name = f"executor alone, {slots} at a time, processors: {len(some)}"
            rate = statistics.median(each.rate for each in found)
            yield Row(name, rate, "jobs/s", statistics.median(floors), "bare C loop, 4 at a time")
            cpu_ms = statistics.median(each.cpu_ms for each in found)
            yield Row(f"{name}, CPU per job", cpu_ms, "ms", goal=Goal("<=", 0.25, absolute=True))


def drive(program: Path, folder: Path, *, jobs: int, slots: int, processors: list[int]) -> Driven:
    """One executor of that program, on these processors; this process is on any."""
    cpus = ",".join(map(str, processors))
    with Executor(program, folder, "--work", str(folder / "work"), prefix=["taskset", "-c", cpus]) as executor:
        executor.attach()
        log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT)
        try:
            _batch(executor, log, range(300), slots)
            inner = executor.inner_pid
            spent, began = cpu_seconds(inner), time.perf_counter()
            _batch(executor, log, range(300, 300 + jobs), slots)
            seconds = time.perf_counter() - began
            return Driven(jobs / seconds, (cpu_seconds(inner) - spent) * 1e3 / jobs)
        finally:
            os.close(log)


def _batch(executor: Executor, log: int, indexes: range, slots: int) -> None:
    # The jobs print nothing, so one log does for all; and what they do is the executor's work, not this process's.
    left = [executor.order("/bin/true", "", name=f"{BATCH}/{index}", slots=slots) for index in indexes]
    left = [{**order, "argv": ["/bin/true"]} for order in left]  # type: ignore[misc]
    running = 0
    while left or running:
        while left and running < IN_FLIGHT:
            some = left[:MESSAGE_JOBS]
            message = {"m": "start", "epoch": executor.hello["epoch"], "orders": some}
            if not executor.connection.send(message, [log] * len(some)):
                break
            del left[:MESSAGE_JOBS]
            running += len(some)
        received = executor.connection.receive()
        if received is None:
            select.select([executor.connection], [], [], 1)
        elif received[0]["m"] == "ended":
            ends = received[0]["jobs"]
            assert all(end["code"] == 0 for end in ends), ends
            running -= len(ends)
            executor.send({"m": "ack", "ids": [end["id"] for end in ends]})


def _bare_on(folder: Path, jobs: int, processors: list[int]) -> Driven:
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, processors)
    try:
        done = bare(folder, jobs)
    finally:
        os.sched_setaffinity(0, own)
    return Driven(done.rate, done.cpu_ms)
