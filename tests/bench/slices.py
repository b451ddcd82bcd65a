"""The longest single slice of work on the server's event loop while a client does its worst over gRPC.

Figures are CPU time of the loop's thread, which other work on the machine changes least, and the wall time beside it.
See harness/slices/sitecustomize.py. `python -m tests.bench.slices [ATTACK]... [--jobs N]`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import grpc

from jobworker.v1 import admin_pb2, admin_pb2_grpc, job_pb2, query_pb2, schedule_pb2
from tests.bench.row import Goal, Row
from tests.bench.run import Run
from tests.harness.service import Service
from tests.harness.wait import until

J = schedule_pb2.JobRequest
MESSAGE_BYTES = (4 << 20) - 1024  # just below the limit
MESSAGE_JOBS = 20_000
HERE = Path(__file__).parent
SLICES = HERE.parent / "harness" / "slices"


class Bench:
    """The service, what an attacker has, and the slices as the server tells them."""

    def __init__(self, service: Service, slices: Path, jobs: int) -> None:
        self.service = service
        self.api = service.api("alice")
        self.jobs = jobs
        self._slices = slices
        self._read = 0
        self._large = ""

    def long_slices(self) -> list[dict[str, Any]]:
        """Those of 10 ms and more since the last question."""
        lines = self._slices.read_bytes()[self._read :]
        self._read += len(lines)
        return [json.loads(line) for line in lines.splitlines()]

    def large(self) -> str:
        """A batch of many jobs, of which the first runs and the others wait."""
        if not self._large:
            self._large = self.submit_many()
        return self._large

    def submit_many(self, **options: Any) -> str:
        """A batch as large as may be, in packed messages; its first job runs until it is cancelled."""

        def messages() -> Iterator[J]:
            for begin in range(0, self.jobs, MESSAGE_JOBS):
                message = J(jobs=[J(command="true")] * min(MESSAGE_JOBS, self.jobs - begin))
                if not begin:
                    message.jobs[0].command = "exec sleep 3600"
                    message.batch.CopyFrom(job_pb2.BatchOptions(parallelism=1, **options))
                yield message

        answer: schedule_pb2.JobResponse = self.api.schedule.ExecuteJobs(messages(), **self.api.call(timeout=600))
        until(lambda: self.api.get(answer.correlation_id).counts.running == 1, "the first job runs")
        return answer.correlation_id

    def raw(self, service: str, method: str, *payloads: bytes, stream: bool = False) -> None:
        """A call with bytes of our own; how it ends does not matter."""
        path = f"/jobworker.v1.{service}/{method}"
        call = self.api.call(timeout=100)
        try:
            if method == "ExecuteJobs":
                self.api.channel.stream_unary(path)(iter(payloads), **call)
            elif stream:
                answers = self.api.channel.unary_stream(path)(payloads[0], **call)
                for _ in answers:
                    answers.cancel()
            else:
                self.api.channel.unary_unary(path)(payloads[0], **call)
        except grpc.RpcError as error:
            print(f"  {method}: {error.code().name} {error.details()}"[:200])


def field(number: int, payload: bytes) -> bytes:
    """A field of a message, with a length (https://protobuf.dev/programming-guides/encoding)."""
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes((value,))


def repeated(piece: bytes, more: bytes = b"") -> bytes:
    """As many of a piece as go into one message."""
    return piece * ((MESSAGE_BYTES - len(more)) // len(piece)) + more


def submit_many(b: Bench) -> None:
    b.large()


def tiny_jobs(b: Bench) -> None:
    b.raw("JobScheduleService", "ExecuteJobs", repeated(field(11, field(1, b":"))))


def empty_jobs(b: Bench) -> None:
    b.raw("JobScheduleService", "ExecuteJobs", repeated(field(11, b"")))


def arguments(b: Bench) -> None:
    b.raw("JobScheduleService", "ExecuteJob", repeated(field(2, b"")))
    b.raw("JobScheduleService", "ExecuteJobs", field(11, repeated(field(2, b""))[:-64]))
    b.raw("JobScheduleService", "ExecuteJob", field(2, b"true") + field(2, b"a") * 200_000)
    b.raw("JobScheduleService", "ExecuteJob", field(2, b"true") + field(2, b"\0") * 200_000)


def environment(b: Bench) -> None:
    entries = b"".join(field(3, field(1, b"%x" % i)) for i in range(400_000))
    b.raw("JobScheduleService", "ExecuteJob", field(1, b"true") + entries[: entries.rindex(b"\x1a")])
    entries = b"".join(field(3, field(1, b"%x" % i)) for i in range(150_000))
    b.raw("JobScheduleService", "ExecuteJob", field(1, b"true") + entries)


def one_large_job(b: Bench) -> None:
    """As many arguments as the kernel takes, accepted and run and read back."""
    name = b.api.submit(J(argv=["true", *["a"] * 65_000]))
    b.api.wait(name)
    b.api.jobs(name)


def states(b: Bench) -> None:
    request = query_pb2.ListBatchesRequest(state=[1] * (MESSAGE_BYTES - 64))
    b.raw("JobQueryService", "ListBatches", request.SerializeToString())


def indexes(b: Bench) -> None:
    some = range(0, b.jobs, 1 if b.jobs < 1_300_000 else 2)
    for kind, method in ((query_pb2.StreamLogsRequest, "StreamLogs"), (query_pb2.SearchJobRequest, "SearchJob")):
        message = kind(correlation_id=b.large(), job_index=some)
        if isinstance(message, query_pb2.StreamLogsRequest):
            message.no_follow = True
        else:
            message.snapshot = True
        b.raw("JobQueryService", method, message.SerializeToString(), stream=True)


def cursors(b: Bench) -> None:
    request = query_pb2.StreamLogsRequest(correlation_id=b.large(), no_follow=True)
    cursors = [query_pb2.LogCursor(job_index=i) for i in range(300_000)]
    request.cursors.extend(cursors)
    b.raw("JobQueryService", "StreamLogs", request.SerializeToString(), stream=True)


def search_nothing(b: Bench) -> None:
    request = query_pb2.SearchJobRequest(correlation_id=b.large(), state=[job_pb2.JOB_STATE_LOST])
    list(b.api.query.SearchJob(request, **b.api.call(timeout=600)))


def status(b: Bench) -> None:
    admin_api = b.service.api("admin")
    admin = admin_pb2_grpc.AdminServiceStub(admin_api.channel)
    for _ in range(5):
        admin.GetStatus(admin_pb2.GetStatusRequest(), **admin_api.call())


def cancel_alternating(b: Bench) -> None:
    some = range(1, b.jobs, 2)
    request = schedule_pb2.CancelBatchRequest(correlation_id=b.large(), job_index=some)
    b.api.schedule.CancelBatch(request, **b.api.call(timeout=600))


def cancel(b: Bench) -> None:
    b.api.schedule.CancelBatch(schedule_pb2.CancelBatchRequest(correlation_id=b.large()), **b.api.call(timeout=600))


def read_finished(b: Bench) -> None:
    call = b.api.call(timeout=600)
    b.api.get(b.large())
    request = query_pb2.SearchJobRequest(correlation_id=b.large(), job_index=[b.jobs - 1], omit_log=True)
    list(b.api.query.SearchJob(request, **call))
    logs = query_pb2.StreamLogsRequest(correlation_id=b.large(), tail_lines=1)
    for n, _ in enumerate(b.api.query.StreamLogs(logs, **call)):
        if n == 2000:
            break


def fail_fast(b: Bench) -> None:
    def messages() -> Iterator[J]:
        for begin in range(0, b.jobs, MESSAGE_JOBS):
            message = J(jobs=[J(command="true")] * min(MESSAGE_JOBS, b.jobs - begin))
            if not begin:
                message.jobs[0].command = "exit 1"
                message.batch.CopyFrom(job_pb2.BatchOptions(parallelism=1, fail_fast=True))
            yield message

    b.api.wait(b.api.schedule.ExecuteJobs(messages(), **b.api.call(timeout=600)).correlation_id, 600)


def stop_queued(b: Bench) -> None:
    name = b.submit_many()
    admin_api = b.service.api("admin")
    admin = admin_pb2_grpc.AdminServiceStub(admin_api.channel)
    admin.StopService(admin_pb2.StopServiceRequest(cancel_queued=True), **admin_api.call())
    until(lambda: b.api.get(name).counts.skipped == b.jobs - 1, "the queued ones are skipped", seconds=600)
    admin.StartService(admin_pb2.StartServiceRequest(), **admin_api.call())
    b.api.cancel(name)


def restart(b: Bench) -> None:
    """The server is killed with many jobs running, and ends of which it has not heard."""
    name = b.submit_many()
    many = b.api.submit(*["sleep 1"] * 1500, batch=job_pb2.BatchOptions(parallelism=1500))
    until(lambda: b.api.get(many).counts.running > 1400, "many run", seconds=120)
    b.service.kill_server()
    time.sleep(1.5)
    b.api.wait(many, 600)
    b.api.schedule.CancelBatch(schedule_pb2.CancelBatchRequest(correlation_id=name), **b.api.call(timeout=600))


def many_ends(b: Bench) -> None:
    b.api.wait(b.api.submit(*["true"] * 6000, batch=job_pb2.BatchOptions(parallelism=1000)), 600)


def executor_dies(b: Bench) -> None:
    many = b.api.submit(*["sleep 600"] * 2000, batch=job_pb2.BatchOptions(parallelism=2000))
    until(lambda: b.api.get(many).counts.running == 2000, "many run", seconds=120)
    os.kill(b.service.child("executor"), 9)
    b.api.wait(many, 600)


def many_batches(b: Bench) -> None:
    """As many unfinished batches as a user may have, with labels, each submitted by a call of its own."""
    b.api.submit("exec sleep 3600")
    options = job_pb2.BatchOptions(labels={f"{i:060}": "x" * 250 for i in range(60)})
    admin_api = b.service.api("admin")
    admin = admin_pb2_grpc.AdminServiceStub(admin_api.channel)
    admin.StopService(admin_pb2.StopServiceRequest(), **admin_api.call())
    admin.StartService(admin_pb2.StartServiceRequest(), **admin_api.call())
    calls: list[Any] = []
    for _ in range(3000):
        job = J(command="exec sleep 3600", batch=options)
        calls.append(b.api.schedule.ExecuteJob.future(job, **b.api.call(timeout=600)))
        if len(calls) == 100:
            for call in calls:
                call.result()
            calls.clear()
    b.api.query.ListBatches(query_pb2.ListBatchesRequest(page_size=1000), **b.api.call())
    status(b)
    os.kill(b.service.child("executor"), 9)
    time.sleep(3)
    admin.StopService(admin_pb2.StopServiceRequest(kill=True, cancel_queued=True), **admin_api.call())
    until(
        lambda: admin.GetStatus(admin_pb2.GetStatusRequest(), **admin_api.call()).unfinished_batches == 0, seconds=300
    )
    admin.StartService(admin_pb2.StartServiceRequest(), **admin_api.call())
    token, pages = "", 0
    while pages == 0 or token:
        request = query_pb2.ListBatchesRequest(page_size=1000, page_token=token)
        answer = b.api.query.ListBatches(request, **b.api.call())
        token, pages = answer.next_page_token, pages + 1


ATTACKS: dict[str, Callable[[Bench], None]] = {
    f.__name__: f
    for f in (
        submit_many, tiny_jobs, empty_jobs, arguments, environment, one_large_job, states, indexes, cursors,
        search_nothing, status, cancel_alternating, cancel, read_finished, fail_fast, stop_queued, restart, many_ends,
        executor_dies, many_batches,
    )
}  # fmt: skip


QUICK = ("submit_many", "states", "cancel")


def measure(run: Run) -> Iterator[Row]:
    """A row for each of them."""
    attacks = QUICK if run.quick else tuple(ATTACKS)
    return measured(run, attacks, jobs=run.size(1_000_000, 20_000))


def measured(run: Run, attacks: Iterable[str], *, jobs: int) -> Iterator[Row]:
    """The longest slice of each."""
    slices = run.folder / "slices"
    slices.touch()
    path = os.pathsep.join(filter(None, (str(SLICES), os.environ.get("PYTHONPATH"))))
    with run.service(variables={"PYTHONPATH": path, "JOBWORKER_TEST_SLICES": str(slices)}) as service:
        bench = Bench(service, slices, jobs)
        bench.long_slices()
        for name in attacks:
            began = time.perf_counter()
            try:
                ATTACKS[name](bench)
            except Exception as error:
                run.say(f"{name}: {error!r}"[:300])
            run.say(f"{name} took {time.perf_counter() - began:.1f} s")
            yield _row(name, sorted(bench.long_slices(), key=lambda s: -s["cpu_seconds"]))


def _row(name: str, found: list[dict[str, Any]]) -> Row:
    longest = found[0] if found else {"cpu_seconds": 0, "seconds": 0}
    above = sum(s["cpu_seconds"] > 0.02 for s in found)
    lines = [f"{longest['seconds'] * 1e3:.0f} ms by the clock; {above} above 20 ms"]
    lines += [
        f"{s['cpu_seconds'] * 1e3:.0f} ms ({s['seconds'] * 1e3:.0f}) {s['stack'] or s['what']}"
        for s in found[:4]
        if s["cpu_seconds"] > 0.015
    ]
    goal = Goal("<=", 20, absolute=True)
    return Row(f"{name}, longest slice", longest["cpu_seconds"] * 1e3, "ms CPU", goal=goal, note="\n    ".join(lines))


def main() -> int:
    """These attacks alone, or with other sizes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("attacks", nargs="*", default=list(ATTACKS))
    parser.add_argument("--jobs", type=int, default=1_000_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="jobworker-slices-") as folder:
        for row in measured(Run(Path(folder)), given.attacks, jobs=given.jobs):
            print(row.text(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
