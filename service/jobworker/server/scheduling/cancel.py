"""Ends jobs before their time: those that run are stopped, those that wait are skipped, however many and however
scattered they are. What takes longer than a few milliseconds is done in slices; nothing of the batch is started
meanwhile, and its running jobs, other calls about it and everyone else have their turns in between. A process that dies
in the middle leaves some recorded and the others queued: whoever asked was not answered yet.
"""

from __future__ import annotations

import asyncio
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from jobworker.server.core.batch import skip_end
from jobworker.server.core.records import Skipped
from jobworker.server.errors import ExhaustedError, UnavailableError
from jobworker.server.model import EndReason
from jobworker.server.scheduling.until_final import UntilFinal
from jobworker.server.store.ledger import unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from jobworker.server.scheduling.tasks import Tasks
    from jobworker.server.scheduling.worker import Worker
    from jobworker.server.slices import Slices
    from jobworker.server.store.active import ActiveBatch
    from jobworker.server.store.ledger import Ledger
    from jobworker.server.telemetry.log import Log
    from jobworker.server.telemetry.observe import Observer

_RANGES_AT_ONCE = 300  # some 2 ms

# Comes to an end when what was recorded is durable; its result is what failed, if something did.
Durable = asyncio.Future[ExhaustedError | UnavailableError | None]
# Which jobs of a batch are meant: a byte of 1 for each of them, or (None) all.
Wanted = bytes | bytearray | None


class Canceller:
    """The scheduler's part for it. `use` first."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        slices: Slices,
        tasks: Tasks,
        clock_ns: Callable[[], int],
        observer: Observer,
        again: Callable[[ActiveBatch], object],
        log: Log,
    ) -> None:
        """`again` is told of a batch that has other jobs to start than before, or none, or whose jobs may start
        again."""
        self._ledger = ledger
        self._slices = slices
        self._tasks = tasks
        self._clock_ns = clock_ns
        self._observer = observer
        self._again = again
        self._log = log
        self._worker: Worker | None = None
        self._stopping: dict[str, tuple[float | None, bool]] = {}  # jobs that are to end: id -> grace, interrupt

    def use(self, worker: Worker) -> None:
        """Who runs the jobs."""
        self._worker = worker

    async def cancel(self, batch: ActiveBatch, wanted: Wanted, reason: EndReason, grace_seconds: float | None) -> None:
        """Stops running jobs and skips queued ones; returns once all are final. Who is cancelled no longer waits; what
        was begun goes on.

        Raises:
            ExhaustedError, UnavailableError: the skipped ones could not be recorded; those that run are being ended.
        """
        running = batch.recorded.running
        self.stop([batch.job_id(i) for i in running if wanted is None or wanted[i]], grace_seconds)
        skipped = self.skip(batch, batch.recorded.queued_ranges(wanted), reason)
        if skipped is not None:
            failure = await asyncio.shield(skipped)
            if failure is not None:
                raise failure
        waiter = UntilFinal(batch, wanted)
        batch.subscribe(waiter)
        try:
            await waiter.wait()
        finally:
            batch.unsubscribe(waiter)

    def fail_fast(self, batch: ActiveBatch) -> None:
        """Ends what is not final of a batch in which a job failed. Called again until nothing is left: what could not
        be recorded is tried then."""
        fresh = [job_id for job_id in map(batch.job_id, batch.recorded.running) if job_id not in self._stopping]
        self.stop(fresh, None)
        if batch.recorded.queued_count and self._ledger.problem is None:
            self.skip(batch, batch.recorded.queued_ranges(None), EndReason.FAIL_FAST)

    def stop(self, job_ids: Iterable[str], grace_seconds: float | None, *, interrupt: bool = False) -> None:
        """Ends running jobs; as interrupted, or as cancelled."""
        running = list(job_ids)
        self._stopping.update(dict.fromkeys(running, (grace_seconds, interrupt)))
        if running and self._worker is not None:
            self._worker.stop(running, grace_seconds, interrupt=interrupt)

    def is_stopping(self, job_id: str) -> bool:
        """A job with an executor is to end."""
        return job_id in self._stopping

    def ended(self, job_ids: Iterable[str]) -> None:
        """These are final, and that is durable."""
        for job_id in job_ids:
            self._stopping.pop(job_id, None)

    def stop_again(self) -> None:
        """An executor attached, and may not have heard it."""
        alike: dict[tuple[float | None, bool], list[str]] = {}
        for job_id, how in self._stopping.items():
            alike.setdefault(how, []).append(job_id)
        for (grace_seconds, interrupt), job_ids in alike.items():
            self.stop(job_ids, grace_seconds, interrupt=interrupt)

    def skip(self, batch: ActiveBatch, ranges: Iterator[tuple[int, int]], reason: EndReason) -> Durable | None:
        """Skips what is still queued of the ranges, ascending. Returns None when nothing was, else what comes to an end
        when all of it is durable, or tells what failed."""
        some = list(islice(ranges, _RANGES_AT_ONCE))
        try:
            first = self._skip(batch, some, reason)
        except (ExhaustedError, UnavailableError) as e:
            failed: Durable
            failed = asyncio.get_running_loop().create_future()
            failed.set_result(e)
            return failed
        if len(some) < _RANGES_AT_ONCE:
            return first
        batch.cancels += 1
        self._again(batch)
        return self._tasks.start(self._skip_rest(batch, first, ranges, reason))

    def skip_if_stopping(self, batch: ActiveBatch, indexes: Sequence[int], reason: EndReason) -> None:
        """Jobs that were ordered are queued again; those that were to end are skipped, but for interrupted ones."""
        for index in indexes:
            _, interrupted = self._stopping.pop(batch.job_id(index), (None, True))
            if not interrupted:
                self.skip(batch, iter([(index, index + 1)]), reason)

    def _skip(self, batch: ActiveBatch, ranges: list[tuple[int, int]], reason: EndReason) -> Durable | None:
        at = self._clock_ns()
        records = [
            Skipped(begin, stop, reason, at) for some in ranges for begin, stop in batch.recorded.still_queued(*some)
        ]
        durable: Durable
        durable = asyncio.get_running_loop().create_future()
        if not self._ledger.record(batch, records, partial(self._skipped, batch, records, durable)):
            return None
        self._again(batch)
        return durable

    def _skipped(
        self,
        batch: ActiveBatch,
        records: list[Skipped],
        durable: Durable,
        error: OSError | None,
    ) -> None:
        if error is not None:
            self._log.error("jobs were not skipped", correlation_id=batch.header.correlation_id, problem=str(error))
        else:
            self._observer.jobs_skipped(batch.header, [(r.begin, r.stop) for r in records], skip_end(records[0]))
        if not durable.done():
            durable.set_result(None if error is None else unavailable(error))

    async def _skip_rest(
        self,
        batch: ActiveBatch,
        first: Durable | None,
        ranges: Iterator[tuple[int, int]],
        reason: EndReason,
    ) -> ExhaustedError | UnavailableError | None:
        parts = [first]
        try:
            async for some in self._slices.each(iter(lambda: list(islice(ranges, _RANGES_AT_ONCE)), [])):
                parts.append(self._skip(batch, some, reason))  # noqa: PERF401  (those before one that fails are kept)
            for part in parts:
                if part is not None and (failure := await part) is not None:
                    return failure
        except (ExhaustedError, UnavailableError) as e:
            return e
        finally:
            batch.cancels -= 1
            self._again(batch)
        return None
