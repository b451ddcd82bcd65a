"""What happens to batches and jobs, as told to whoever counts or traces it. The scheduler and the acceptor tell; they
know nothing of metrics or traces."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jobworker.server.model import BatchHeader, BatchState, JobEnd


class Observer:
    """Does nothing with what it is told; subclasses take what they need.

    Called on the event loop and on hot paths: notes it and returns. Times are Unix nanoseconds.
    """

    def batch_accepted(self, header: BatchHeader, job_count: int, began_at: int, durable_at: int) -> None:
        """A batch is on disk; its first message came at `began_at`."""

    def batch_recovered(self, header: BatchHeader, job_count: int) -> None:
        """A server before this one had accepted it, and left it unfinished."""

    def jobs_ordered(self, header: BatchHeader, indexes: Sequence[int], at: int) -> None:
        """Jobs were given to the executor."""

    def jobs_started(self, header: BatchHeader, indexes: Sequence[int]) -> None:
        """The executor told that jobs run, or, of quick ones, that they ran; once for each."""

    def jobs_ended(self, header: BatchHeader, ends: Sequence[tuple[int, JobEnd]]) -> None:
        """Jobs are final, and their ends on disk."""

    def jobs_skipped(self, header: BatchHeader, ranges: Sequence[tuple[int, int]], end: JobEnd) -> None:
        """The same of jobs that never ran: from the first of each range to before its second, a million perhaps, and
        all with the same end."""

    def batch_finished(
        self, header: BatchHeader, job_count: int, state: BatchState, started_at: int | None, ended_at: int | None
    ) -> None:
        """Every job is final; told after the last `jobs_ended` and `jobs_skipped`."""


class Observers(Observer):
    """Tells several."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def batch_accepted(self, header: BatchHeader, job_count: int, began_at: int, durable_at: int) -> None:
        for observer in self._observers:
            observer.batch_accepted(header, job_count, began_at, durable_at)

    def batch_recovered(self, header: BatchHeader, job_count: int) -> None:
        for observer in self._observers:
            observer.batch_recovered(header, job_count)

    def jobs_ordered(self, header: BatchHeader, indexes: Sequence[int], at: int) -> None:
        for observer in self._observers:
            observer.jobs_ordered(header, indexes, at)

    def jobs_started(self, header: BatchHeader, indexes: Sequence[int]) -> None:
        for observer in self._observers:
            observer.jobs_started(header, indexes)

    def jobs_ended(self, header: BatchHeader, ends: Sequence[tuple[int, JobEnd]]) -> None:
        for observer in self._observers:
            observer.jobs_ended(header, ends)

    def jobs_skipped(self, header: BatchHeader, ranges: Sequence[tuple[int, int]], end: JobEnd) -> None:
        for observer in self._observers:
            observer.jobs_skipped(header, ranges, end)

    def batch_finished(
        self, header: BatchHeader, job_count: int, state: BatchState, started_at: int | None, ended_at: int | None
    ) -> None:
        for observer in self._observers:
            observer.batch_finished(header, job_count, state, started_at, ended_at)
