"""Decides which job starts when, and turns what the worker tells into the record. Woken by events alone: a batch came,
a mark is durable, a job started or ended, an executor attached.

Order of deeds, which the promises rest on: the intent is written before the order is sent; an end is written before it
is acknowledged, and durable before it is shown. Knows no sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from jobworker.server.errors import UnavailableError
from jobworker.server.model import BatchView, EndReason, JobEnd, JobState
from jobworker.server.scheduling.cancel import Canceller, Wanted
from jobworker.server.scheduling.lost import lose, lost_end
from jobworker.server.scheduling.order import CannotOrderError, RunSettings, close_files, make_order
from jobworker.server.scheduling.orders import Orders
from jobworker.server.scheduling.queue import Turns
from jobworker.server.scheduling.tasks import Tasks
from jobworker.server.scheduling.worker import Attached, Order, Worker
from jobworker.server.slices import Slices, one_slice
from jobworker.server.store.active import ActiveBatch
from jobworker.server.store.batches import Batches
from jobworker.server.store.journal import PoisonedError
from jobworker.server.store.layout import Layout
from jobworker.server.store.recovery import Recovered
from jobworker.server.telemetry.log import Log
from jobworker.server.telemetry.observe import Observer

# One message carries at most 250 descriptors, and a job brings up to three.
_ORDERS_AT_ONCE = 64
_RETRY_SECONDS = 1.0
_FAILED = frozenset((JobState.FAILED, JobState.TIMED_OUT, JobState.LOST))


class Scheduler:
    """The one owner of all unfinished batches; a worker's Listener."""

    def __init__(
        self,
        *,
        batches: Batches,
        layout: Layout,
        settings: RunSettings,
        clock_ns: Callable[[], int],
        log: Log,
        observer: Observer,
        slices: Slices,
    ) -> None:
        self._batches = batches
        self._layout = layout
        self._settings = settings
        self._clock_ns = clock_ns
        self._log = log
        self._observer = observer
        self._slices = slices
        self._tasks = Tasks()
        self.close = self._tasks.close
        self._turns = Turns()
        self._canceller = Canceller(
            slices=slices,
            tasks=self._tasks,
            clock_ns=clock_ns,
            skipped=lambda batch: partial(self._skipped, batch),
            refresh=self._turns.refresh,
            again=self._advance,
            log=log,
        )
        self._stopping = self._canceller.stopping
        self._worker: Worker | None = None
        self._orders: Orders[tuple[ActiveBatch, int]] = Orders()
        self.idle = self._orders.idle  # until no job runs
        self._filling = False
        self._paused = False
        self._unwritten: dict[ActiveBatch, list[tuple[int, JobEnd]]] = {}
        self.picture: Attached | None = None

    # -- batches come

    def use(self, worker: Worker) -> None:
        """The worker to give orders to."""
        self._worker = worker
        self._canceller.use(worker)

    def recover(self, found: Recovered) -> None:
        """Takes over what the server before left unfinished."""
        for batch in found.batches:
            self._batches.active[batch.header.correlation_id] = batch
            self._observer.batch_recovered(batch.header, batch.job_count)
        for batch, index in found.lost:
            end = lost_end(batch, index, reason=EndReason.MACHINE_LOST, at=self._clock_ns())
            self._record(batch, [(index, end)])
        for batch in found.batches:
            for index in batch.running:
                self._orders[f"{batch.header.correlation_id}/{index}"] = (batch, index)
            self.submit(batch)
            if batch.complete:
                self._finish(batch)
            elif batch.header.fail_fast and not batch.failed_fast and not _FAILED.isdisjoint(batch.counts()):
                self._fail_fast(batch)  # the server before died between the two

    def submit(self, batch: ActiveBatch) -> None:
        """Queues a durable batch."""
        self._advance(batch)

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
        self._canceller.stop(self._orders, None, interrupt=interrupt)

    def skip_queued(self, batch: ActiveBatch) -> None:
        """Skips the jobs of a batch that have not started. Raises UnavailableError: it could not be recorded."""
        self._canceller.skip(batch, batch.queued_ranges(None), EndReason.CANCELLED)

    # -- callers

    async def cancel(self, batch: BatchView, *, wanted: Wanted, grace_seconds: float | None) -> None:
        """Skips queued jobs and ends running ones; returns once all of them are final."""
        if isinstance(batch, ActiveBatch) and not batch.complete:
            await self._canceller.cancel(batch, wanted, EndReason.CANCELLED, grace_seconds)

    # -- Listener

    def attached(self, picture: Attached) -> None:
        """An executor is there: what was ordered and is not in its picture never arrived (the same epoch), or went
        down with the executor before (another)."""
        self.picture = picture
        lost: list[str] = []
        for job_id, (batch, index) in list(self._orders.items()):
            if job_id in picture.running or job_id in picture.ended or job_id in picture.waiting:
                continue
            if batch.running.get(index) == picture.epoch:
                del self._orders[job_id]
                batch.put_back(index)
                self._canceller.skip_if_stopping(batch, index, job_id, EndReason.CANCELLED)
                self._advance(batch)
            else:
                lost.append(job_id)
        if lost:
            self._tasks.start(
                lose(
                    lost,
                    orders=self._orders,
                    record=self._record,
                    slices=self._slices,
                    clock_ns=self._clock_ns,
                    log=self._log,
                )
            )
        self.started(list(picture.running.items()))
        self.ended(list(picture.ended.items()))
        self._canceller.stop_again()
        if self._worker is not None:
            self._worker.unfinished(list(self._batches.active))
        self._wake()

    def started(self, jobs: list[tuple[str, int]]) -> None:
        for job_id, at in jobs:
            found = self._orders.get(job_id)
            if found is not None:
                batch, index = found
                try:
                    if batch.start(index, at):
                        self._observer.jobs_started(batch.header, (index,))
                except (OSError, PoisonedError) as e:
                    # Its end, which tells its start as well, will be recorded or retried.
                    self._log.error(
                        "a start was not recorded",
                        correlation_id=batch.header.correlation_id,
                        job_index=index,
                        problem=str(e),
                    )

    def ended(self, jobs: list[tuple[str, JobEnd]]) -> None:
        known: dict[ActiveBatch, list[tuple[int, JobEnd]]] = {}
        settled = []
        for job_id, end in jobs:
            found = self._orders.get(job_id)
            if found is None:
                settled.append(job_id)  # recorded by a server before, and its acknowledgement lost
                continue
            batch, index = found
            if end.reason is EndReason.INTERRUPTED and end.started_at is None:
                self._take_back(batch, index, job_id)
                continue
            by_batch = batch.failed_fast and end.reason is EndReason.CANCELLED
            known.setdefault(batch, []).append((index, replace(end, reason=EndReason.FAIL_FAST) if by_batch else end))
        for batch, ends in known.items():
            self._record(batch, ends)
        if settled and self._worker is not None:
            self._worker.acknowledge(settled)

    def _take_back(self, batch: ActiveBatch, index: int, job_id: str) -> None:
        try:
            batch.give_back(index)
        except (OSError, PoisonedError) as e:
            self._log.error(
                "a job was not taken back", correlation_id=batch.header.correlation_id, job_index=index, problem=str(e)
            )
            return
        del self._orders[job_id]
        if self._worker is not None:
            self._worker.acknowledge([job_id])
        self._canceller.skip_if_stopping(batch, index, job_id, EndReason.CANCELLED)
        self._advance(batch)

    # -- starting

    def _advance(self, batch: ActiveBatch) -> None:
        """Does for a batch what can be done now, and has the free places filled."""
        if batch.header.correlation_id not in self._batches.active:
            return
        self._move_mark(batch)
        self._turns.refresh(batch)
        self._wake()

    def _move_mark(self, batch: ActiveBatch) -> None:
        try:
            batch.move_mark(partial(self._advance, batch))
        except (OSError, PoisonedError) as e:
            self._log.error("a batch waits", correlation_id=batch.header.correlation_id, problem=str(e))
            asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._advance, batch)

    def _release(self, batch: ActiveBatch) -> None:
        batch.held = False
        self._advance(batch)

    def _wake(self) -> None:
        # Once for all that happened in this turn of the loop: orders go out in one message.
        if not self._filling:
            self._filling = True
            asyncio.get_running_loop().call_soon(self._fill)

    def _fill(self) -> None:
        self._filling = False
        worker = self._worker
        if worker is None or self._paused or (epoch := worker.epoch) is None:
            return
        orders: list[Order] = []
        intents: dict[ActiveBatch, list[int]] = {}
        is_over = one_slice()
        while len(self._orders) < self._settings.running_jobs:
            if len(orders) == _ORDERS_AT_ONCE or is_over():
                self._wake()
                break
            batch = self._turns.next()
            if batch is None:
                break
            index = batch.take(epoch)
            job_id = f"{batch.header.correlation_id}/{index}"
            self._orders[job_id] = (batch, index)
            self._turns.refresh(batch)
            order = self._order(batch, index, job_id)
            if order is not None:
                orders.append(order)
                intents.setdefault(batch, []).append(index)
        orders = self._intend(orders, intents, epoch)
        if orders:
            worker.start(orders)
        for batch in intents:
            self._move_mark(batch)

    def _intend(self, orders: list[Order], intents: dict[ActiveBatch, list[int]], epoch: str) -> list[Order]:
        """Writes the intents; orders whose intent cannot be written are not sent, and their jobs wait."""
        now_ns = self._clock_ns()
        held: set[str] = set()
        for batch, jobs in intents.items():
            try:
                batch.intend(jobs, epoch, now_ns)
            except (OSError, PoisonedError) as e:
                self._log.error("jobs wait", correlation_id=batch.header.correlation_id, problem=str(e))
                for index in jobs:
                    held.add(job_id := f"{batch.header.correlation_id}/{index}")
                    del self._orders[job_id]
                    batch.put_back(index)
                batch.held = True
                asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._release, batch)
            else:
                self._observer.jobs_ordered(batch.header, jobs, now_ns)
        for order in orders:
            if order.id in held:
                close_files(order)
        return [o for o in orders if o.id not in held]

    def _order(self, batch: ActiveBatch, index: int, job_id: str) -> Order | None:
        """The order of a job; None: it cannot be made, and the job has ended."""
        try:
            return make_order(batch, index, job_id, self._settings)
        except CannotOrderError as e:
            self._log.error(
                "a job cannot be started", correlation_id=batch.header.correlation_id, job_index=index, problem=str(e)
            )
            now_ns = self._clock_ns()
            end = JobEnd(
                state=JobState.FAILED, reason=e.reason, detail=str(e), ended_at=now_ns, log_bytes=(0,) * e.logs
            )
            self._record(batch, [(index, end)])
            return None

    # -- ending

    def _record(self, batch: ActiveBatch, ends: list[tuple[int, JobEnd]]) -> None:
        """Writes ends, frees their places, and acknowledges them. What cannot be written is kept, here and by the
        executor, and tried again."""
        untold = [i for i, end in ends if end.started_at is not None and batch.settled[i] == JobState.QUEUED]
        try:
            batch.end(ends, partial(self._shown, batch))
        except PoisonedError as e:
            # Nothing more can be recorded in this life of the server; the executor keeps these ends for the next.
            self._log.error("ends cannot be recorded", correlation_id=batch.header.correlation_id, problem=str(e))
            return
        except OSError as e:
            self._log.error("ends wait to be recorded", correlation_id=batch.header.correlation_id, problem=str(e))
            if not self._unwritten:
                asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._retry)
            self._unwritten.setdefault(batch, []).extend(ends)
            return
        if untold:  # of a quick job the end alone is told
            self._observer.jobs_started(batch.header, untold)
        ids = [f"{batch.header.correlation_id}/{index}" for index, _ in ends]
        for job_id in ids:
            self._orders.pop(job_id, None)
            self._stopping.pop(job_id, None)
        if self._worker is not None:
            self._worker.acknowledge(ids)
        if batch.header.fail_fast and not batch.failed_fast and any(e.state in _FAILED for _, e in ends):
            self._fail_fast(batch)
        self._advance(batch)

    def _fail_fast(self, batch: ActiveBatch) -> None:
        batch.failed_fast = True
        with contextlib.suppress(UnavailableError):  # told in the log
            self._canceller.begin(batch, None, EndReason.FAIL_FAST, None)

    def _retry(self) -> None:
        unwritten, self._unwritten = self._unwritten, {}
        for batch, ends in unwritten.items():
            self._record(batch, ends)

    def _shown(self, batch: ActiveBatch, ends: list[tuple[int, JobEnd]]) -> None:
        self._observer.jobs_ended(batch.header, ends)
        if batch.complete:
            self._finish(batch)

    def _skipped(self, batch: ActiveBatch, ranges: list[tuple[int, int]], end: JobEnd) -> None:
        self._observer.jobs_skipped(batch.header, ranges, end)
        if batch.complete:
            self._finish(batch)

    def _finish(self, batch: ActiveBatch) -> None:
        header = batch.header
        if self._batches.active.get(header.correlation_id) is not batch:
            return
        try:
            batch.finish(self._layout.finished(header.user, header.correlation_id))
        except (OSError, PoisonedError) as e:
            self._log.error("a finished batch was not moved", correlation_id=header.correlation_id, problem=str(e))
            asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._finish, batch)
            return
        del self._batches.active[header.correlation_id]
        if self._worker is not None:
            self._worker.over(header.correlation_id)
        self._turns.refresh(batch)
        self._observer.batch_finished(header, batch.job_count, batch.state, batch.started_at, batch.ended_at)
        counts = {state.name.lower(): n for state, n in batch.counts().items()}
        self._log.info(
            "batch finished", correlation_id=header.correlation_id, user=header.user, state=batch.state.name, **counts
        )

    @property
    def connected(self) -> bool:
        """An executor takes orders."""
        return self._worker is not None and self._worker.epoch is not None

    @property
    def running(self) -> int:
        """Jobs ordered and not ended."""
        return len(self._orders)
