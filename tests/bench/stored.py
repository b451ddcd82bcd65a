"""Cost is flat: a restart, GetBatch and ListBatches with very many stored batches, beside the same with one.

The batches are written by the service's own code for its files, as finished batches of one `true` each.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import ssl
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from jobworker.server.core.records import Ended, Ordered
from jobworker.server.ids import CorrelationId
from jobworker.server.model import BatchHeader, BatchOptions, EndReason, JobEnd, JobSpec, JobState, LogStream, Usage
from jobworker.server.store import results
from jobworker.server.store.batchfile import BatchWriter, Digest, encode_spec
from jobworker.server.store.commitlog import segment_path
from jobworker.server.store.disk import Disk
from jobworker.server.store.frames import Totals, group_frame, segment_frame, totals_frame
from jobworker.server.store.layout import BATCH, RESULTS, Layout, log_name
from jobworker.server.store.stored import Stored
from jobworker.v1 import job_pb2, query_pb2
from tests.bench.caller import Caller, CallFailedError
from tests.bench.row import Goal, Row
from tests.bench.run import Run
from tests.harness.service import Service
from tests.harness.wait import DEADLINE_SECONDS, kill, until

GET = "/jobworker.v1.JobQueryService/GetBatch"
LIST = "/jobworker.v1.JobQueryService/ListBatches"
USER = "alice"
SPACING_MS = 1000  # between two batches: sixty in the folder of a minute
MAKE_SECONDS = 600.0  # then what has been made has to do
RESTARTS = 5
FLAT = Goal("<=", 1.2)  # it should be 1, and two medians of the same thing differ by so much


def measure(run: Run) -> Iterator[Row]:
    """The rows."""
    count = run.size(200_000, 500)
    made = {name: stored(run, run.folder / name / "data", n) for name, n in (("one", 1), ("many", count))}
    try:
        with run.service("one") as one, run.service("many") as many:
            yield from _rows(run, made["many"], one, many)
    finally:
        began = time.perf_counter()
        shutil.rmtree(run.folder / "many" / "data")
        run.say(f"removed in {time.perf_counter() - began:.0f} s")


def _rows(run: Run, count: int, one: Service, many: Service) -> Iterator[Row]:
    name, floor_is = f"{count} stored batches", "one stored batch"
    tokens = {service: service.api(USER).token for service in (one, many)}
    restarts: dict[Service, list[float]] = {one: [], many: []}
    for _ in range(run.size(RESTARTS, 1)):
        for service, taken in restarts.items():
            taken.append(_restart(service, tokens[service]))
        run.say(f"restart: one {restarts[one][-1]:.2f} s, many {restarts[many][-1]:.2f} s")
    took = {service: statistics.median(taken) for service, taken in restarts.items()}
    yield Row(f"{name}, server's start to its first answer", took[many], "s", took[one], floor_is, FLAT)
    with Caller(one, tokens[one]) as ask_one, Caller(many, tokens[many]) as ask_many:
        ids = _sample(many, 500)
        (only,) = _sample(one, 1)

        def compared(
            what: str, method: str, of_one: bytes, of_many: Callable[[int], bytes], goal: Goal | None = FLAT
        ) -> Row:
            times: dict[Caller, list[float]] = {ask_one: [], ask_many: []}
            for n in range(run.size(500, 50)):
                for caller, request in ((ask_one, of_one), (ask_many, of_many(n))):
                    began = time.perf_counter()
                    caller.one(method, request)
                    times[caller].append((time.perf_counter() - began) * 1e3)
            floor, value = (statistics.median(taken) for taken in times.values())
            return Row(f"{name}, {what} p50", value, "ms", floor, floor_is, goal)

        yield compared("GetBatch of one", GET, _get(only), lambda _: _get(ids[0]))
        yield compared("GetBatch of another each time", GET, _get(only), lambda n: _get(ids[n % len(ids)]), None)
        newest = query_pb2.ListBatchesRequest(page_size=1).SerializeToString()
        yield compared("ListBatches of the newest", LIST, newest, lambda _: newest)
        yield compared("ListBatches of one in the middle", LIST, newest, lambda n: _after(ids[n % len(ids)]))
        page = query_pb2.ListBatchesRequest().SerializeToString()
        yield compared("ListBatches of a page of 50", LIST, page, lambda _: page, None)


def _restart(service: Service, token: str) -> float:
    """Seconds from the start of a new server until it has told a batch. The supervisor's pause before is not of it."""
    (some,) = _sample(service, 1)
    old = service.child("server")
    kill(old)
    until(lambda: service.child("server") != old, "another server")
    began = time.perf_counter()
    while True:
        try:
            with Caller(service, token) as caller:
                batch = job_pb2.Batch.FromString(caller.one(GET, _get(some)))
        except (OSError, ssl.SSLError, CallFailedError):  # it does not listen yet, or does not serve yet
            if time.perf_counter() - began > DEADLINE_SECONDS:
                raise
            time.sleep(0.002)
            continue
        assert batch.correlation_id == some
        return time.perf_counter() - began


def _get(correlation_id: str) -> bytes:
    return query_pb2.GetBatchRequest(correlation_id=correlation_id).SerializeToString()


def _after(correlation_id: str) -> bytes:
    """Of the batch before this one."""
    return query_pb2.ListBatchesRequest(page_size=1, page_token=correlation_id).SerializeToString()


def _sample(service: Service, count: int) -> list[str]:
    """The ids of some stored batches, of minutes here and there."""
    minutes = sorted(Path(Layout(service.data).user_root(USER)).glob("*/*"))
    return [os.listdir(random.choice(minutes))[0] for _ in range(count)]


def make(data: Path, first: int, count: int, newest_ms: int, seconds: float) -> tuple[int, int]:
    """Writes finished batches, the first the newest, as many as there is time for: how many, and their bytes."""
    layout, disk = Layout(data), Disk()
    spec = encode_spec(JobSpec(argv=("/bin/true",)))
    usage = Usage(500, 500, 1 << 20, 0, 0, 1, 0)
    deadline = time.monotonic() + seconds
    size = made = 0
    for n in range(first, first + count):
        if time.monotonic() > deadline:
            break
        correlation_id = CorrelationId.make(newest_ms - n * SPACING_MS)
        folder = layout.finished(USER, correlation_id)
        os.makedirs(folder, mode=0o700)
        at = correlation_id.unix_ms * 1_000_000
        options = BatchOptions()
        header = BatchHeader(
            correlation_id=correlation_id,
            user=USER,
            accepted_at=at,
            name=options.name,
            parallelism=4,
            fail_fast=options.fail_fast,
            labels=options.labels,
        )
        digest = Digest()
        digest.add_options(options)
        writer = BatchWriter(header, digest, disk=disk, create=lambda: -1)  # so small a batch makes no file itself
        writer.add(spec)
        with open(f"{folder}/{BATCH}", "xb") as file:
            file.write(writer.finish())
        started, ended = at + 5_000_000, at + 7_000_000
        end = JobEnd(
            state=JobState.SUCCEEDED,
            reason=EndReason.EXITED,
            exit_code=0,
            waited=True,
            started_at=started,
            ended_at=ended,
            usage=usage,
            log_bytes=(0,),
        )
        lines = [
            results.encode(Ordered((0,), "e" * 32, at)),
            results.encode(Ended(0, end)),
            results.final_line({JobState.SUCCEEDED: 1}, started, ended, (0, 1)),
        ]
        with open(f"{folder}/{RESULTS}", "xb") as file:
            file.writelines(lines)
        with open(f"{folder}/{log_name(0, LogStream.MERGED, 1)}", "xb"):
            pass
        size += os.stat(f"{folder}/{BATCH}").st_size + sum(map(len, lines))
        made += 1
    return made, size


def stored(run: Run, data: Path, count: int) -> int:
    """Makes them with every processor, the newest of the present, and what the commit log says that they take. How many
    there was time for."""
    began = time.perf_counter()
    newest_ms = time.time_ns() // 1_000_000 - 60_000
    workers = min(os.cpu_count() or 1, count)
    share = -(-count // workers)
    pieces = [(data, n, min(share, count - n), newest_ms, MAKE_SECONDS) for n in range(0, count, share)]
    os.makedirs(data, mode=0o700)
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        made = pool.starmap(make, pieces)
    count = sum(n for n, _ in made)
    layout = Layout(data)
    os.makedirs(layout.commit_root, mode=0o700)
    totals = totals_frame(Totals({USER: Stored(count, sum(size for _, size in made), 4 * count)}, [], {}))
    frames = segment_frame(1, "") + group_frame(len(totals)) + totals
    Path(segment_path(layout.commit_root, 1)).write_bytes(frames)
    run.say(f"stored batches: {count}, made in {time.perf_counter() - began:.0f} s")
    return count
