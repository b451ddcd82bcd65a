"""Counts batches and jobs, as the acceptor and the scheduler tell of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobworker.server.model import BatchState, EndReason, JobState
from jobworker.server.telemetry import names
from jobworker.server.telemetry.observe import Observer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jobworker.server.model import BatchHeader, JobEnd
    from jobworker.server.telemetry.instruments import Instruments

# What there can be, so that each series is there from the start: rate() does not see a first appearance.
_ENDS: dict[JobState, tuple[EndReason, ...]] = {
    JobState.SUCCEEDED: (EndReason.EXITED,),
    JobState.FAILED: (
        EndReason.EXITED,
        EndReason.SIGNALLED,
        EndReason.SPAWN_FAILED,
        EndReason.LOG_LIMIT,
        EndReason.MEMORY,
        EndReason.PROCESSES,
        EndReason.INTERRUPTED,
        EndReason.DISK_FULL,
        EndReason.DAMAGED,
    ),
    JobState.CANCELLED: (EndReason.CANCELLED, EndReason.FAIL_FAST),
    JobState.TIMED_OUT: (EndReason.TIMEOUT,),
    JobState.LOST: (EndReason.EXECUTOR_LOST, EndReason.MACHINE_LOST),
    JobState.SKIPPED: (EndReason.CANCELLED, EndReason.FAIL_FAST),
}


class JobMetrics(Observer):
    """An Observer that counts."""

    def __init__(self, instruments: Instruments) -> None:
        self._accepted = instruments.counter(names.BATCHES_ACCEPTED).of()
        self._finished = instruments.counter(names.BATCHES_FINISHED)
        for batch_state in BatchState:
            if batch_state.final:
                self._finished.of(batch_state.name.lower())
        self._submitted = instruments.counter(names.JOBS_SUBMITTED).of()
        self._started = instruments.counter(names.JOBS_STARTED).of()
        ended = instruments.counter(names.JOBS_FINISHED)
        self._ended = {
            (state, reason): ended.of(state.name.lower(), reason.name.lower())
            for state, reasons in _ENDS.items()
            for reason in reasons
        }
        self._other_end = ended.of
        self._wait = instruments.histogram(names.JOB_QUEUE_WAIT).of()
        self._run = instruments.histogram(names.JOB_RUN).of()
        self._spawn = instruments.histogram(names.JOB_SPAWN).of()
        self._written = instruments.counter(names.LOG_WRITTEN).of()
        dropped = instruments.counter(names.LOG_DROPPED)
        self._over, self._lost = dropped.of("log_limit"), dropped.of("disk_full")

    def batch_accepted(self, header: BatchHeader, job_count: int, began_at: int, durable_at: int) -> None:  # noqa: ARG002
        self._accepted.value += 1
        self._submitted.value += job_count

    def jobs_ordered(self, header: BatchHeader, indexes: Sequence[int], at: int) -> None:
        wait = max(0.0, (at - header.accepted_at) / 1e9)
        self._wait.observe_of(header.correlation_id, wait, at / 1e9, len(indexes))

    def jobs_started(self, header: BatchHeader, indexes: Sequence[int]) -> None:  # noqa: ARG002
        self._started.value += len(indexes)

    def jobs_ended(self, header: BatchHeader, ends: Sequence[tuple[int, JobEnd]]) -> None:
        correlation_id, ended = header.correlation_id, self._ended
        for _, end in ends:
            counter = ended.get((end.state, end.reason))
            if counter is None:  # a pair that nobody thought of is bounded all the same: both are enums
                counter = self._other_end(end.state.name.lower(), end.reason.name.lower())
            counter.value += 1
            self._written.value += sum(end.log_bytes)
            at = end.ended_at
            if at is None or end.started_at is None or end.state is JobState.LOST:
                continue
            self._run.observe_of(correlation_id, max(0, at - end.started_at) / 1e9, at / 1e9)
            if end.spawn_us is not None:
                self._spawn.observe_of(correlation_id, end.spawn_us / 1e6, at / 1e9)
            if end.lost_bytes or end.over_bytes:
                self._lost.value += end.lost_bytes
                self._over.value += end.over_bytes

    def jobs_skipped(self, header: BatchHeader, ranges: Sequence[tuple[int, int]], end: JobEnd) -> None:  # noqa: ARG002
        self._ended[end.state, end.reason].value += sum(stop - begin for begin, stop in ranges)

    def batch_finished(
        self,
        header: BatchHeader,  # noqa: ARG002
        job_count: int,  # noqa: ARG002
        state: BatchState,
        started_at: int | None,  # noqa: ARG002
        ended_at: int | None,  # noqa: ARG002
    ) -> None:
        self._finished.of(state.name.lower()).value += 1
