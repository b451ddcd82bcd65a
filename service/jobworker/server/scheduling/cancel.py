"""Ends jobs before their time: those that run are stopped, those that wait are skipped, however many and however
scattered they are. What takes longer than a few milliseconds is done in slices; nothing of the batch is started
meanwhile, and its running jobs, other calls about it and everyone else have their turns in between. A process that dies
in the middle leaves some recorded and the others queued: whoever asked was not answered yet.
"""

from __future__ import annotations

import asyncio
import contextlib
from itertools import islice
from typing import TYPE_CHECKING

from jobworker.server.errors import UnavailableError
from jobworker.server.scheduling.until_final import UntilFinal
from jobworker.server.store.journal import PoisonedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from jobworker.server.model import EndReason
    from jobworker.server.scheduling.tasks import Tasks
    from jobworker.server.scheduling.worker import Worker
    from jobworker.server.slices import Slices
    from jobworker.server.store.active import ActiveBatch, Skipped
    from jobworker.server.telemetry.log import Log

_RANGES_AT_ONCE = 300  # some 2 ms

# The task that skips what is left; its result is what it failed with.
Rest = asyncio.Task[UnavailableError | None]
# Which jobs of a batch are meant: a byte of 1 for each of them, or (None) all.
Wanted = bytes | bytearray | None


class Canceller:
    """The scheduler's part for it. `use` first."""

    def __init__(
        self,
        *,
        slices: Slices,
        tasks: Tasks,
        clock_ns: Callable[[], int],
        skipped: Callable[[ActiveBatch], Skipped],
        refresh: Callable[[ActiveBatch], object],
        again: Callable[[ActiveBatch], object],
        log: Log,
    ) -> None:
        """
        Args:
            skipped: gives who is told what of a batch is skipped and durable.
            refresh: told of a batch that has other jobs to start than before, or none.
            again: told of one whose jobs may start again.
        """
        self._slices = slices
        self._tasks = tasks
        self._clock_ns = clock_ns
        self._skipped = skipped
        self._refresh = refresh
        self._again = again
        self._log = log
        self._worker: Worker | None = None
        self.stopping: dict[str, float | None] = {}  # running jobs that are to end: id -> grace

    def use(self, worker: Worker) -> None:
        """Who runs the jobs."""
        self._worker = worker

    async def cancel(self, batch: ActiveBatch, wanted: Wanted, reason: EndReason, grace_seconds: float | None) -> None:
        """As `begin`, and returns once all are final. Who is cancelled no longer waits; what was begun goes on."""
        rest = self.begin(batch, wanted, reason, grace_seconds)
        if rest is not None and (failure := await asyncio.shield(rest)) is not None:
            raise failure
        waiter = UntilFinal(batch, wanted)
        batch.subscribe(waiter)
        try:
            await waiter.wait()
        finally:
            batch.unsubscribe(waiter)

    def begin(self, batch: ActiveBatch, wanted: Wanted, reason: EndReason, grace_seconds: float | None) -> Rest | None:
        """Stops running jobs and skips queued ones; returns who does the rest, None when nothing is left to be done.

        Raises:
            UnavailableError: the skipped ones could not be recorded; those that run are being ended.
        """
        running = [f"{batch.header.correlation_id}/{i}" for i in batch.running if wanted is None or wanted[i]]
        self.stop(running, grace_seconds)
        return self.skip(batch, batch.queued_ranges(wanted), reason)

    def stop(self, job_ids: Iterable[str], grace_seconds: float | None, *, interrupt: bool = False) -> None:
        """Ends running jobs; as interrupted, or as cancelled."""
        running = list(job_ids)
        self.stopping.update(dict.fromkeys(running, grace_seconds))
        if running and self._worker is not None:
            self._worker.stop(running, grace_seconds, interrupt=interrupt)

    def stop_again(self) -> None:
        """An executor attached, and may not have heard it."""
        graces: dict[float | None, list[str]] = {}
        for job_id, grace_seconds in self.stopping.items():
            graces.setdefault(grace_seconds, []).append(job_id)
        for grace_seconds, job_ids in graces.items():
            self.stop(job_ids, grace_seconds)

    def skip(self, batch: ActiveBatch, ranges: Iterator[tuple[int, int]], reason: EndReason) -> Rest | None:
        """Skips what is queued of the ranges; see `begin`."""
        some = list(islice(ranges, _RANGES_AT_ONCE))
        try:
            self._skip(batch, some, reason)
            if len(some) < _RANGES_AT_ONCE:
                return None
            batch.cancels += 1
        finally:
            self._refresh(batch)
        return self._tasks.start(self._skip_rest(batch, ranges, reason))

    def skip_if_stopping(self, batch: ActiveBatch, index: int, job_id: str, reason: EndReason) -> None:
        """A job that was ordered is queued again; one that was to end is skipped."""
        if job_id in self.stopping:
            del self.stopping[job_id]
            with contextlib.suppress(UnavailableError):  # told in the log
                self.skip(batch, iter([(index, index + 1)]), reason)

    def _skip(self, batch: ActiveBatch, ranges: list[tuple[int, int]], reason: EndReason) -> None:
        try:
            batch.skip(ranges, reason, self._clock_ns(), self._skipped(batch))
        except (OSError, PoisonedError) as e:
            self._log.error("jobs were not skipped", correlation_id=batch.header.correlation_id, problem=str(e))
            raise UnavailableError("the cancellation cannot be recorded now", retry_after_seconds=5) from e

    async def _skip_rest(
        self, batch: ActiveBatch, ranges: Iterator[tuple[int, int]], reason: EndReason
    ) -> UnavailableError | None:
        try:
            async for some in self._slices.each(iter(lambda: list(islice(ranges, _RANGES_AT_ONCE)), [])):
                self._skip(batch, some, reason)
        except UnavailableError as e:
            return e
        finally:
            batch.cancels -= 1
            self._again(batch)
        return None
