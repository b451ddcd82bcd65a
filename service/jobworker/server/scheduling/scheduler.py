"""Decides which job starts when, and turns what the worker tells into records. Woken by events alone: a batch came, a
record is durable, a job started or ended, an executor attached.

Every effect comes after the commit of its record (store/ledger.py): an order is sent when it is durable, with the
executor's epoch; an end is acknowledged and shown when it is. Knows no sockets and no files.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from jobworker.server.core.records import Ended, Returned, Started
from jobworker.server.errors import ExhaustedError, UnavailableError
from jobworker.server.ids import CorrelationId
from jobworker.server.model import BatchView, EndReason, JobEnd, JobState
from jobworker.server.scheduling.cancel import Canceller, Wanted
from jobworker.server.scheduling.fairqueue import FairQueue
from jobworker.server.scheduling.launch import Launcher
from jobworker.server.scheduling.lost import lose, lost_end
from jobworker.server.scheduling.order import RunSettings
from jobworker.server.scheduling.tasks import Tasks
from jobworker.server.scheduling.worker import ExecutorSnapshot, Worker
from jobworker.server.slices import Slices, one_slice
from jobworker.server.store.active import ActiveBatch
from jobworker.server.store.batches import Batches
from jobworker.server.store.ledger import Ledger
from jobworker.server.store.recovery import Recovered
from jobworker.server.telemetry.log import Log
from jobworker.server.telemetry.observe import Observer

# One message carries at most 250 descriptors, and a job brings up to three.
_ORDERS_AT_ONCE = 64
_RETRY_SECONDS = 1.0
_NAMES = {state: state.name.lower() for state in JobState}


class Scheduler:
    """The one owner of all unfinished batches; a worker's Listener."""

    def __init__(
        self,
        *,
        batches: Batches,
        ledger: Ledger,
        settings: RunSettings,
        clock_ns: Callable[[], int],
        log: Log,
        observer: Observer,
        slices: Slices,
    ) -> None:
        self._batches = batches
        self._ledger = ledger
        self._settings = settings
        self._clock_ns = clock_ns
        self._log = log
        self._observer = observer
        self._slices = slices
        self._tasks = Tasks()
        self.close = self._tasks.close
        self.idle = ledger.idle  # until no job runs
        self.resumed: Callable[[], object] = lambda: None  # told that what could not be recorded can be again
        ledger.resumed = self._resumed
        ledger.completed = self._completed
        ledger.files.finished = self._finished
        self._turns = FairQueue()
        self._canceller = Canceller(
            ledger=ledger,
            slices=slices,
            tasks=self._tasks,
            clock_ns=clock_ns,
            observer=observer,
            again=self._advance,
            log=log,
        )
        self._launcher = Launcher(
            ledger=ledger,
            observer=observer,
            clock_ns=clock_ns,
            log=log,
            is_stopping=self._canceller.is_stopping,
            failed=self._not_launched,
        )
        self._worker: Worker | None = None
        self._filling = False
        self._paused = False
        self.snapshot: ExecutorSnapshot | None = None

    # -- batches come

    def use(self, worker: Worker) -> None:
        """The worker to give orders to."""
        self._worker = worker
        self._canceller.use(worker)
        self._launcher.use(worker)

    def recover(self, found: Recovered) -> None:
        """Takes over what the server before left unfinished."""
        lost: defaultdict[ActiveBatch, list[tuple[int, JobEnd]]] = defaultdict(list)
        for batch, index in found.lost:
            end = lost_end(batch, index, reason=EndReason.MACHINE_LOST, at=self._clock_ns())
            lost[batch].append((index, end))
        for batch in found.batches:
            self._batches.add(batch)
            self._observer.batch_recovered(batch.header, batch.job_count)
        for batch, ends in lost.items():
            self._record_ends(batch, ends)
        for batch in found.batches:
            if batch.complete:
                self._ledger.files.write(batch)  # it was not moved yet
            else:
                self._advance(batch)

    def begin(self, batch: ActiveBatch) -> None:
        """A batch is being made durable: where places are free and nobody waits for one, the orders of its first jobs
        become so with it. They are sent when it is submitted."""
        if (epoch := self._epoch()) is None or self._turns:
            return
        places = min(self._settings.running_jobs - self._ledger.running, _ORDERS_AT_ONCE)
        if places > 0 and (jobs := batch.recorded.next_jobs(places)):
            self._launch(batch, jobs, epoch, hold=True)

    def submit(self, batch: ActiveBatch) -> None:
        """Queues a durable batch."""
        self._launcher.release(batch)
        self._advance(batch)

    def withdraw(self, batch: ActiveBatch) -> None:
        """A batch that was begun is not to be."""
        self._launcher.withdraw(batch)

    # -- whoever runs the service

    def configure(self, settings: RunSettings) -> None:
        """Takes other settings, for jobs that start from now on."""
        self._settings = settings
        self._wake()

    def pause(self) -> None:
        """Starts no more jobs."""
        self._paused = True

    def resume(self) -> None:
        """Starts jobs again."""
        self._paused = False
        self._wake()

    def cancel_running(self, *, interrupt: bool = False) -> None:
        """Ends every running job, with the usual grace; as interrupted, or as cancelled."""
        for batch in self._batches.active.values():
            self._canceller.stop(map(batch.job_id, batch.recorded.running), None, interrupt=interrupt)

    def skip_queued(self, batch: ActiveBatch) -> None:
        """Skips the jobs of a batch that have not started.

        Raises:
            ExhaustedError, UnavailableError: it cannot be recorded.
        """
        self._canceller.skip(batch, batch.recorded.queued_ranges(None), EndReason.CANCELLED)

    @property
    def connected(self) -> bool:
        """An executor takes orders."""
        return self._worker is not None and self._worker.epoch is not None

    @property
    def running(self) -> int:
        """Jobs ordered and not ended."""
        return self._ledger.running

    # -- callers

    async def cancel(self, batch: BatchView, *, wanted: Wanted, grace_seconds: float | None) -> None:
        """Skips queued jobs and ends running ones; returns once all of them are final."""
        if isinstance(batch, ActiveBatch) and not batch.complete:
            await self._canceller.cancel(batch, wanted, EndReason.CANCELLED, grace_seconds)

    # -- Listener

    def attached(self, snapshot: ExecutorSnapshot) -> None:
        """An executor is there: what was ordered and is not in its snapshot never arrived (the same epoch), or went
        down with the executor before (another), unless that is known not to have started it."""
        self.snapshot = snapshot
        lost: list[tuple[ActiveBatch, int, str]] = []
        for batch in list(self._batches.active.values()):
            returned = []
            for index, epoch in batch.recorded.running.items():
                job_id = batch.job_id(index)
                if job_id in snapshot.running or job_id in snapshot.ended or job_id in snapshot.waiting:
                    continue
                if job_id in self._launcher.under_way:
                    continue  # no executor was sent it yet
                if epoch != snapshot.epoch and snapshot.never_started.get(job_id) != epoch:
                    lost.append((batch, index, epoch))
                else:
                    returned.append(index)
            if returned:
                self._return(batch, returned)
        if lost:
            self._tasks.start(
                lose(lost, record=self._record_ends, slices=self._slices, clock_ns=self._clock_ns, log=self._log)
            )
        self.started(list(snapshot.running.items()))
        self.ended(list(snapshot.ended.items()))
        self._canceller.stop_again()
        if self._worker is not None:
            self._worker.unfinished(list(self._batches.active))
        self._wake()

    def started(self, jobs: list[tuple[str, int]]) -> None:
        known: defaultdict[ActiveBatch, list[Started]] = defaultdict(list)
        for job_id, at in jobs:
            found = self._find(job_id)
            if found is None:
                continue
            batch, index = found
            if index in batch.recorded.running and index not in batch.recorded.started:
                known[batch].append(Started(index, at))
        for batch, records in known.items():
            # What cannot be recorded the end tells as well, and so does the next snapshot.
            with contextlib.suppress(ExhaustedError, UnavailableError):
                self._ledger.record(batch, records, partial(self._starts_durable, batch, records))

    def _starts_durable(self, batch: ActiveBatch, records: list[Started], error: OSError | None) -> None:
        if error is None:
            self._observer.jobs_started(batch.header, [record.job for record in records])

    def ended(self, jobs: list[tuple[str, JobEnd]]) -> None:
        known: defaultdict[ActiveBatch, list[tuple[int, JobEnd]]] = defaultdict(list)
        returned: defaultdict[ActiveBatch, list[int]] = defaultdict(list)
        durable = []
        for job_id, end in jobs:
            found = self._find(job_id)
            if found is None or found[0].job_state(found[1]).final:
                durable.append(job_id)  # recorded by a server before, and its acknowledgement lost
                continue
            batch, index = found
            if index not in batch.recorded.running:
                continue  # its end is recorded, and acknowledged when that is durable
            if end.reason is EndReason.INTERRUPTED and end.started_at is None:
                returned[batch].append(index)
            elif end.reason is EndReason.CANCELLED and batch.recorded.fails_fast:
                known[batch].append((index, replace(end, reason=EndReason.FAIL_FAST)))
            else:
                known[batch].append((index, end))
        for batch, ends in known.items():
            self._record_ends(batch, ends)
        for batch, indexes in returned.items():
            self._return(batch, indexes)
        self._acknowledge(durable)

    def _find(self, job_id: str) -> tuple[ActiveBatch, int] | None:
        """The batch and index of a job of an unfinished batch."""
        correlation_id, _, number = job_id.partition("/")
        batch = self._batches.active.get(CorrelationId(correlation_id))
        return None if batch is None or not number.isdigit() else (batch, int(number))

    # -- starting

    def _advance(self, batch: ActiveBatch) -> None:
        """Does for a batch what can be done now, and has the free places filled."""
        if batch.recorded.fails_fast and batch.recorded.open_count and not batch.cancels:
            self._canceller.fail_fast(batch)
        self._turns.refresh(batch)
        self._wake()

    def _wake(self) -> None:
        # Once for all that happened in this turn of the loop: orders go out in one message.
        if not self._filling:
            self._filling = True
            asyncio.get_running_loop().call_soon(self._fill)

    def _fill(self) -> None:
        self._filling = False
        if (epoch := self._epoch()) is None:
            return
        places = self._settings.running_jobs - self._ledger.running
        # Jobs that wait for their turn at the executor hold places, too: those of others must not become scarce.
        ahead = places > self._settings.running_jobs // 2
        wanted: Counter[ActiveBatch] = Counter()
        is_over = one_slice()
        for _ in range(min(places, _ORDERS_AT_ONCE)):
            batch = self._turns.next()
            if batch is None:
                break
            startable = batch.startable(ahead=ahead)
            if startable:
                wanted[batch] += 1
            if wanted[batch] >= startable:
                self._turns.take_out(batch)
            if is_over():
                break
        launched = True
        for batch, count in wanted.items():
            launched = self._launch(batch, batch.recorded.next_jobs(count), epoch) and launched
            self._turns.refresh(batch)
        if launched and self._turns and places > wanted.total():
            self._wake()

    def _epoch(self) -> str | None:
        """Of the executor that takes orders; None: nothing can be ordered now."""
        worker, waits = self._worker, self._paused or self._ledger.problem is not None
        return None if worker is None or waits else worker.epoch

    def _launch(self, batch: ActiveBatch, jobs: tuple[int, ...], epoch: str, *, hold: bool = False) -> bool:
        try:
            self._launcher.launch(batch, jobs, epoch, self._settings, hold=hold)
        except (ExhaustedError, UnavailableError) as e:
            self._log.error("jobs wait", correlation_id=batch.header.correlation_id, problem=str(e))
            return False
        return True

    def _not_launched(
        self, batch: ActiveBatch, returned: list[int], ends: list[tuple[int, JobEnd]], hold: bool
    ) -> None:
        """Orders that are durable were not sent: what they need is not there now, or never will be."""
        if hold and not batch.held:
            batch.held = True
            asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._release, batch)
        if returned:
            self._return(batch, returned)
        if ends:
            self._record_ends(batch, ends)

    def _release(self, batch: ActiveBatch) -> None:
        batch.held = False
        self._advance(batch)

    def _return(self, batch: ActiveBatch, indexes: Sequence[int]) -> None:
        """Jobs that were ordered did not start: they are queued again, or skipped if they were to end."""
        ids = list(map(batch.job_id, indexes))
        try:
            self._ledger.record(batch, [Returned(index) for index in indexes], partial(self._returned, ids))
        except (ExhaustedError, UnavailableError) as e:
            # The executor keeps them as ended, or they are missing in its next snapshot again.
            self._log.error("jobs were not taken back", correlation_id=batch.header.correlation_id, problem=str(e))
            return
        self._canceller.skip_if_stopping(batch, indexes, EndReason.CANCELLED)
        self._advance(batch)

    def _returned(self, ids: list[str], error: OSError | None) -> None:
        if error is None and self._worker is not None:
            self._worker.acknowledge(ids, at_once=True)

    # -- ending

    def _record_ends(self, batch: ActiveBatch, ends: list[tuple[int, JobEnd]]) -> None:
        """Records ends, frees their places, and acknowledges and shows them when they are durable. What cannot be
        recorded the executor keeps, and tells again when it can be (`_resumed`)."""
        unreported = [i for i, end in ends if end.started_at is not None and i not in batch.recorded.started]
        records = [Ended(index, end) for index, end in ends]
        try:
            fresh = self._ledger.record(batch, records, partial(self._ends_durable, batch, ends, unreported))
        except (ExhaustedError, UnavailableError):
            return  # told in the log when that began
        if fresh:
            self._advance(batch)

    def _ends_durable(
        self, batch: ActiveBatch, ends: list[tuple[int, JobEnd]], unreported: list[int], error: OSError | None
    ) -> None:
        if error is not None:
            return
        if unreported:  # of a quick job the end alone is told
            self._observer.jobs_started(batch.header, unreported)
        self._observer.jobs_ended(batch.header, ends)
        ids = [batch.job_id(index) for index, _ in ends]
        self._canceller.ended(ids)
        self._acknowledge(ids)

    def _acknowledge(self, ids: list[str]) -> None:
        if ids and self._worker is not None:
            self._worker.acknowledge(ids)

    def _finished(self, batch: ActiveBatch) -> None:
        """The batch lies with the finished ones."""
        self._observer.batch_finished(batch.header, batch.job_count, batch.state, batch.started_at, batch.ended_at)

    def _completed(self, batch: ActiveBatch) -> None:
        """Every job is final."""
        header = batch.header
        if self._worker is not None:
            self._worker.over(header.correlation_id)
        counts = {_NAMES[state]: n for state, n in batch.counts().items()}
        self._log.info(
            "batch finished", correlation_id=header.correlation_id, user=header.user, state=batch.state.name, **counts
        )

    def _resumed(self) -> None:
        """What could not be recorded can be again."""
        if self._worker is not None:
            self._worker.tell_again()  # the ends that it kept
        for batch in list(self._batches.active.values()):
            self._advance(batch)
        self.resumed()
