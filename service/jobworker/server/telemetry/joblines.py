"""Lines in the service's log about batches and their jobs, as events for whoever collects it. Of a large batch only
some jobs are told: the first, and as many more that failed; at level debug all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from jobworker.server.model import JobState
from jobworker.server.telemetry.observe import Observer

if TYPE_CHECKING:
    from jobworker.server.ids import CorrelationId
    from jobworker.server.model import BatchHeader, BatchState, JobEnd
    from jobworker.server.telemetry.log import Log

_FAILED = frozenset({JobState.FAILED, JobState.TIMED_OUT, JobState.LOST})


class JobLines(Observer):
    """Never tells commands, environments or inputs: those may hold secrets."""

    def __init__(self, *, log: Log, is_debug: Callable[[], bool]) -> None:
        self._log = log
        self._is_debug = is_debug
        self._jobs_per_batch = 0
        self._failed_more: dict[CorrelationId, int] = {}  # told beyond the first

    def configure(self, *, jobs_per_batch: int) -> None:
        """Takes another number, from now on."""
        self._jobs_per_batch = jobs_per_batch

    def batch_accepted(self, header: BatchHeader, job_count: int, began_at: int, durable_at: int) -> None:
        if self._is_debug():
            self._log.debug(
                "batch accepted",
                correlation_id=header.correlation_id,
                user=header.user,
                jobs=job_count,
                seconds=_seconds(began_at, durable_at),
            )

    def jobs_ordered(self, header: BatchHeader, indexes: Sequence[int], at: int) -> None:  # noqa: ARG002
        if self._is_debug():
            self._log.debug(
                "jobs ordered", correlation_id=header.correlation_id, user=header.user, job_indexes=list(indexes)
            )

    def jobs_ended(self, header: BatchHeader, ends: Sequence[tuple[int, JobEnd]]) -> None:
        first, is_debug = self._jobs_per_batch, self._is_debug()
        for index, end in ends:
            if index < first or (end.state in _FAILED and self._counts(header.correlation_id)):
                tell = self._log.info
            elif is_debug:
                tell = self._log.debug
            else:
                continue
            _tell_end(tell, header, index, end)

    def jobs_skipped(self, header: BatchHeader, ranges: Sequence[tuple[int, int]], end: JobEnd) -> None:
        first, is_debug = self._jobs_per_batch, self._is_debug()
        for begin, stop in ranges:
            for index in range(begin, min(stop, first)):
                _tell_end(self._log.info, header, index, end)
            if is_debug and stop > first:
                self._log.debug(
                    "jobs skipped",
                    correlation_id=header.correlation_id,
                    user=header.user,
                    first_job_index=max(begin, first),
                    last_job_index=stop - 1,
                    reason=end.reason.name,
                )

    def batch_finished(
        self,
        header: BatchHeader,
        job_count: int,  # noqa: ARG002
        state: BatchState,  # noqa: ARG002
        started_at: int | None,  # noqa: ARG002
        ended_at: int | None,  # noqa: ARG002
    ) -> None:
        self._failed_more.pop(header.correlation_id, None)

    def _counts(self, batch: CorrelationId) -> bool:
        told = self._failed_more.get(batch, 0)
        if told >= self._jobs_per_batch:
            return False
        self._failed_more[batch] = told + 1
        return True


def _tell_end(tell: Callable[..., object], header: BatchHeader, index: int, end: JobEnd) -> None:
    tell(
        "job ended",
        correlation_id=header.correlation_id,
        user=header.user,
        job_index=index,
        state=end.state.name,
        reason=end.reason.name,
        exit_code=end.exit_code,
        signal=end.signal,
        seconds=_seconds(end.started_at, end.ended_at),
        log_bytes=sum(end.log_bytes),
    )


def _seconds(began_at: int | None, ended_at: int | None) -> float | None:
    return None if began_at is None or ended_at is None else max(0.0, round((ended_at - began_at) / 1e9, 6))
