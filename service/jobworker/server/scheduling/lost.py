"""The end of a job that nobody saw end; and those of all that ran on an executor that is gone, in slices."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable

from jobworker.server.errors import DamagedError
from jobworker.server.model import EndReason, JobEnd, JobState
from jobworker.server.slices import Slices
from jobworker.server.store.active import ActiveBatch
from jobworker.server.store.logsize import log_size
from jobworker.server.telemetry.log import Log

_JOBS_AT_ONCE = 20  # each reads a line, and asks how long a file is


async def lose(
    jobs: list[tuple[ActiveBatch, int, str]],
    *,
    record: Callable[[ActiveBatch, list[tuple[int, JobEnd]]], object],
    slices: Slices,
    clock_ns: Callable[[], int],
    log: Log,
) -> None:
    """Records jobs as lost with the executor of their epoch, as far as they are still with it."""
    counts: Counter[ActiveBatch] = Counter()
    async for begin in slices.each(range(0, len(jobs), _JOBS_AT_ONCE)):
        lost: defaultdict[ActiveBatch, list[tuple[int, JobEnd]]] = defaultdict(list)
        for batch, index, epoch in jobs[begin : begin + _JOBS_AT_ONCE]:
            if batch.recorded.running.get(index) == epoch:
                end = lost_end(batch, index, reason=EndReason.EXECUTOR_LOST, at=clock_ns())
                lost[batch].append((index, end))
        for batch, ends in lost.items():
            record(batch, ends)
            counts[batch] += len(ends)
    async for batch, count in slices.each(counts.items()):
        log.warning("jobs lost with their executor", correlation_id=batch.header.correlation_id, jobs=count)


def lost_end(batch: ActiveBatch, index: int, *, reason: EndReason, at: int) -> JobEnd:
    """LOST, with what is known: its start, and its logs as long as they are. `at` in Unix nanoseconds."""
    try:
        streams = batch.reader.spec(index).output.streams
        sizes = [log_size(batch.log_path(index, stream)) for stream in streams]
    except DamagedError:
        sizes = [(0, 0)]
    return JobEnd(
        state=JobState.LOST,
        reason=reason,
        started_at=batch.recorded.started.get(index),
        ended_at=at,
        log_bytes=tuple(size for size, _ in sizes),
        dropped_head=tuple(head for _, head in sizes) if any(head for _, head in sizes) else (),
    )
